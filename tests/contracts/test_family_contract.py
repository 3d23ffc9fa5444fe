"""Does every family found keep the promises of families/base.py?"""

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from PIL.Image import Image
from PIL.Image import new as new_picture
from representatives import family_cases

from dbrun.adapters.attach import match_layers
from dbrun.adapters.base import TARGET_PRESETS
from dbrun.diffusion.ddpm import DiffusionProcess
from dbrun.diffusion.flow import FlowMatching
from dbrun.diffusion.prediction import DdpmPrediction
from dbrun.errors import Interrupted, RecipeError
from dbrun.models.base import CleanBatch, Family, Model, Randn, families
from dbrun.models.prompt_length import find_truncated, load_tokenizer, may_be_truncated
from dbrun.recipe.schema.model import Adapt

FAMILIES = families()
PROMPTS = ("a photo of sks dog", "a dog", "")
PREDICTIONS = {"ddpm": get_args(DdpmPrediction), "flow": ("flow",)}
PREDICTED = [(name, prediction) for name, family in FAMILIES.items() for prediction in PREDICTIONS[family.process]]
Case = tuple[Family, Path, Model]


def load(family: Family, folder: Path) -> Model:
    return family.load(folder, device=torch.device("cpu"), dtype=torch.float32)


def drawn(model: Model, count: int, side: int) -> CleanBatch:
    pixels = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return model.sample_x0(model.encode_images(pixels), zeros(count), model.family.class_labels[0])


def zeros(count: int) -> Randn:
    return lambda _, shape: torch.zeros(count, *shape)


@pytest.fixture(scope="module", params=family_cases())
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp("family") / request.param
    family.write_tiny_base(folder)
    return family, folder, load(family, folder)


@pytest.fixture
def fresh(case: Case) -> Case:
    family, folder, _ = case
    return family, folder, load(family, folder)


def side_of(family: Family, folder: Path) -> int:
    multiple = family.resolution_multiple(folder)
    return multiple * max(1, 32 // multiple)


def beginning(family: Family, folder: Path) -> dict[str, Any]:
    side = side_of(family, folder)
    whole = new_picture("RGB", (side, side), "teal")
    start = None if family.start_image_reason is None else family.start_image(whole)
    return {"resolution": side, "start_image": start}


def test_tiny_has_the_folders_and_the_class_it_says(case: Case) -> None:
    family, folder, _ = case
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] in family.pipeline_classes
    assert all((folder / name).is_dir() for name in family.subfolders)


def test_tiny_is_the_same_each_time_and_leaves_the_global_random_state(case: Case, tmp_path: Path) -> None:
    family, folder, _ = case
    before = torch.get_rng_state()
    family.write_tiny_base(tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    for path in folder.rglob("*.safetensors"):
        digests = {hashlib.sha256(p.read_bytes()).digest() for p in (path, tmp_path / path.relative_to(folder))}
        assert len(digests) == 1, path.name


@pytest.mark.parametrize(("name", "prediction"), PREDICTED)
def test_tiny_predicts_what_was_asked_for(tmp_path: Path, name: str, prediction: str) -> None:
    family = FAMILIES[name]
    family.write_tiny_base(tmp_path, prediction=prediction)
    process = load(family, tmp_path).diffusion_process()
    assert process.prediction == prediction
    assert isinstance(process, {"ddpm": DiffusionProcess, "flow": FlowMatching}[family.process])


def test_the_base_is_frozen_and_in_eval_mode(fresh: Case) -> None:
    family, _, model = fresh
    for component in family.components:
        module = model.module(component)
        assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_denoiser_comes_first(case: Case) -> None:
    assert next(iter(case[0].components)) == "denoiser"


def test_every_component_is_explained(case: Case) -> None:
    family = case[0]
    assert set(family.component_docs) == {*family.components, *family.token_components}


def test_class_labels_are_explained_where_there_is_a_choice(case: Case) -> None:
    assert bool(case[0].class_labels_doc) is (len(case[0].class_labels) > 1)


def test_pictures_become_latents_that_the_denoiser_takes(case: Case) -> None:
    family, folder, model = case
    x0, extra_conditions = drawn(model, 2, side_of(family, folder))
    assert x0.ndim == 4 and x0.dtype == torch.float32
    noise, t = torch.ones_like(x0), torch.tensor([3, 700])
    condition = {**model.collate_conditions(model.encode_prompts(PROMPTS[:2])), **extra_conditions}
    pred = model.predict(model.diffusion_process().add_noise(x0, noise, t), t, condition)
    assert pred.shape == x0.shape and bool(pred.isfinite().all())


def test_a_picture_that_is_no_square_goes_through_in_its_own_shape(case: Case) -> None:
    """As aspect-ratio buckets want it: sides of any multiple, the two different."""
    family, folder, model = case
    multiple = family.resolution_multiple(folder)
    width, height = side_of(family, folder) + multiple, side_of(family, folder)
    stored = model.encode_images(torch.zeros(2, 3, height, width))
    x0, extra_conditions = model.sample_x0(stored, zeros(2), family.class_labels[0])
    assert x0.shape[-2:] == stored.shape[-2:] and x0.shape[-1] * height == x0.shape[-2] * width
    condition = {**model.collate_conditions(model.encode_prompts(PROMPTS[:2])), **extra_conditions}
    pred = model.predict(x0, torch.tensor([3, 700]), condition)
    assert pred.shape == x0.shape and bool(pred.isfinite().all())


def test_all_chance_in_a_draw_comes_from_randn(case: Case) -> None:
    family, folder, model = case
    stored = model.encode_images(torch.zeros(2, 3, *[side_of(family, folder)] * 2))
    assert len(stored) == 2 and stored.dtype == torch.float32
    before = torch.get_rng_state()
    first, again = (model.sample_x0(stored, zeros(2), family.class_labels[0]) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.x0, again.x0) and first.extra_conditions.keys() == again.extra_conditions.keys()
    assert all(torch.equal(hint, again.extra_conditions[name]) and len(hint) == 2
               for name, hint in first.extra_conditions.items())


def test_every_class_label_gives_a_prediction_of_its_own(case: Case) -> None:
    family, folder, model = case
    stored, t = torch.rand(2, 3, *[side_of(family, folder)] * 2, generator=torch.Generator().manual_seed(1)), [3, 700]
    answers = []
    for labels in family.class_labels:
        x0, extra_conditions = model.sample_x0(model.encode_images(stored), zeros(2), labels)
        condition = {**model.collate_conditions(model.encode_prompts(PROMPTS[:2])), **extra_conditions}
        answers.append(model.predict(x0, torch.tensor(t), condition))
    assert all(not torch.equal(a, b) for i, a in enumerate(answers) for b in answers[:i])


def test_what_cannot_be_adapted_is_a_component_of_recipes(case: Case) -> None:
    family, _, _ = case
    assert set(family.not_adaptable) <= set(Adapt.model_fields) - set(family.components)


def test_what_is_cut_off_a_prompt_is_what_the_base_does_not_read(case: Case) -> None:
    family, folder, model = case
    unread: set[str] = set()
    for limit in family.prompt_limits(folder):
        tokenizer = load_tokenizer(folder, limit.tokenizer)
        assert tokenizer is not None
        long = family.normalize_prompt("A photo of Sks dog," + " xyz" * limit.tokens)
        (cut,) = find_truncated(tokenizer, [long, "a dog"], limit.tokens)
        assert cut.prompt == long and long.endswith(cut.cut_off) and may_be_truncated(long, limit.tokens)
        read = model.component(limit.tokenizer)(long, add_special_tokens=False, truncation=False)["input_ids"]
        assert cut.token_count == len(read) > limit.tokens
        whole, kept = (model.encode_prompts([text])[0] for text in (long, long[:-len(cut.cut_off)]))
        less = model.encode_prompts([long[:-len(cut.cut_off)].strip()[:-1]])[0]
        own = {name for name in whole
               if torch.equal(whole[name], kept[name]) and not torch.equal(whole[name], less[name])}
        assert own, limit
        unread |= own
    # each tensor of a condition has its limit
    assert unread == set(whole)


def test_prompts_of_different_lengths_stand_together_as_each_stands_alone(case: Case) -> None:
    family, folder, model = case
    prompts, t = ["", "a", "a photo of sks dog on the grass"], torch.tensor([400] * 3)
    x0, extra_conditions = drawn(model, 3, side_of(family, folder))
    conditions = [model.encode_prompts([prompt])[0] for prompt in prompts]
    together = model.predict(x0, t, {**model.collate_conditions(conditions), **extra_conditions})
    for row in range(3):
        own = {name: hint[row:row + 1] for name, hint in extra_conditions.items()}
        alone = model.predict(x0[row:row + 1], t[:1],
                               {**model.collate_conditions(conditions[row:row + 1]), **own})
        assert torch.allclose(together[row:row + 1], alone, atol=1e-4)


def test_what_text_encoders_give_apart_joins_to_the_same_bits(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that does not learn runs once for each prompt, before training, and not beside those that learn."""
    family, _, model = case
    prompts = ("", *PROMPTS[:2])
    expected = [model.encode_prompts([prompt])[0] for prompt in prompts]
    known = model.encoder_outputs(prompts, family.text_encoders)
    encode = type(model).encode_with
    for frozen in (*((name,) for name in family.text_encoders), family.text_encoders):
        ran: set[str] = set()

        def watched(self: Model, text_encoder: str, texts: Any, ran: set[str] = ran) -> Any:
            ran.add(text_encoder)
            return encode(self, text_encoder, texts)

        monkeypatch.setattr(type(model), "encode_with", watched)
        stored = {prompt: {name: known[prompt][name] for name in frozen} for prompt in prompts}
        for prompt, whole in zip(prompts, expected, strict=True):
            (joined,) = model.encode_prompts([prompt], stored)
            assert joined.keys() == whole.keys()
            assert all(torch.equal(joined[name], tensor) for name, tensor in whole.items())
        assert ran == set(family.text_encoders) - set(frozen)


def test_a_condition_has_no_batch_axis_and_collate_adds_one(case: Case) -> None:
    _, _, model = case
    conditions = model.encode_prompts(PROMPTS)
    assert len(conditions) == len(PROMPTS)
    together = dict(model.collate_conditions(conditions))
    # of a family whose prompts keep their own lengths: the longest decides
    mask = together.pop("mask", None)
    assert together.keys() == conditions[0].keys()
    for name, tensor in together.items():
        lengths = [len(condition[name]) for condition in conditions]
        assert tensor.shape == (len(PROMPTS), max(lengths), *conditions[0][name].shape[1:])
        assert len(set(lengths)) == 1 or (mask is not None and mask.sum(dim=1).tolist() == lengths)
    alike = model.collate_conditions(conditions[:1] * 2)
    assert alike.keys() == conditions[0].keys()
    assert any(not torch.equal(conditions[0][name], conditions[1][name]) for name in conditions[0])


def test_a_prompt_is_encoded_in_a_batch_as_alone(case: Case) -> None:
    _, _, model = case
    for prompt, together in zip(PROMPTS, model.encode_prompts(PROMPTS), strict=True):
        (alone,) = model.encode_prompts([prompt])
        assert together.keys() == alone.keys()
        for name, tensor in together.items():
            torch.testing.assert_close(tensor, alone[name], rtol=0, atol=2e-5)


def test_prompts_have_a_limit(case: Case) -> None:
    family, folder, model = case
    assert all(limit.tokens >= 16 for limit in family.prompt_limits(folder))
    model.encode_prompts(["dog " * 500])


def test_a_picture_depends_on_its_arguments_alone(case: Case) -> None:
    family, folder, model = case

    def picture(prompt: str, seed: int) -> Image:
        return model.generate(prompt, seed=seed, steps=2, guidance=3.0, **beginning(family, folder))

    before = torch.get_rng_state()
    first = picture("a dog", 5)
    assert torch.equal(before, torch.get_rng_state())
    others = [picture("a dog", 6), picture("a cat", 5)]
    torch.manual_seed(99)
    again = picture("a dog", 5)
    assert first.tobytes() == again.tobytes()
    assert all(first.tobytes() != other.tobytes() for other in others)
    assert first.size == (side_of(family, folder),) * 2 and first.mode == "RGB"


def test_a_picture_of_a_block_does_not_depend_on_the_others(case: Case) -> None:
    family, folder, model = case
    size = family.block_size(32)
    assert 1 <= family.block_size(1024) <= size
    if size == 1:
        pytest.skip("this family draws its class images one by one")

    def block(prompts: list[str], seeds: list[int]) -> list[bytes]:
        known = model.sampling_conditions(prompts)
        settings = {"steps": 2, "guidance": 3.0, "resolution": side_of(family, folder)}
        pictures = model.generate_block([known[prompt] for prompt in prompts], seeds, **settings)
        return [picture.tobytes() for picture in pictures]

    dogs = block(["a dog"] * size, list(range(size)))
    assert len(set(dogs)) == size
    others = block(["a dog", *["two cats in the snow"] * (size - 1)], [0, *range(7, 6 + size)])
    assert others[0] == dogs[0] and others[1] != dogs[1]


def test_drawing_can_be_stopped_after_each_sampler_step(case: Case) -> None:
    family, folder, model = case
    ticks = []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 2:
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        model.generate("a dog", seed=0, steps=4, guidance=3.0, on_step=tick, **beginning(family, folder))
    assert len(ticks) == 2


def test_drawing_leaves_the_process_as_it_was(fresh: Case) -> None:
    family, folder, model = fresh
    scheduler = model.scheduler
    config = dict(scheduler.config)
    model.generate("a dog", seed=0, steps=2, guidance=3.0, **beginning(family, folder))
    assert model.scheduler is scheduler and dict(scheduler.config) == config


def test_every_preset_matches_and_a_wider_one_holds_the_narrower(case: Case) -> None:
    family, _, model = case
    for component in family.components:
        module, narrower = model.module(component), set[str]()
        presets = family.target_presets[component]
        assert list(presets) == [preset for preset in TARGET_PRESETS if preset in presets]
        assert {"attention", "linear"} <= presets.keys()
        for preset, patterns in presets.items():
            found = set(match_layers(module, patterns))
            assert found >= narrower, preset
            narrower = found


def test_linear_is_every_linear_layer_and_nothing_else(case: Case) -> None:
    family, _, model = case
    for component in family.components:
        module = model.module(component)
        linear = {name for name, m in module.named_modules() if isinstance(m, torch.nn.Linear)}
        assert set(match_layers(module, family.target_presets[component]["linear"])) == linear


def test_all_reaches_convolutions_and_is_offered_where_there_are_some(case: Case) -> None:
    family, _, model = case
    module, presets = model.module("denoiser"), family.target_presets["denoiser"]
    convolutions = {name for name, part in module.named_modules() if isinstance(part, torch.nn.Conv2d)}
    assert bool(convolutions) is ("all" in presets)
    if convolutions:
        assert not convolutions.isdisjoint(match_layers(module, presets["all"]))


def test_a_folder_that_is_no_base_is_refused(case: Case, tmp_path: Path) -> None:
    family, _, _ = case
    with pytest.raises(RecipeError):
        load(family, tmp_path)
    with pytest.raises(RecipeError, match=r"config\.json"):
        family.resolution_multiple(tmp_path)
