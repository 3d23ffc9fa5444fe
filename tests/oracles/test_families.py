"""Does every family prepare, encode and predict exactly as diffusers' own pipelines do? Pictures of unequal sides."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from representatives import representatives
from safetensors.torch import load_file
from torch import Tensor

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.attach import attach, match_layers, read_weights
from dbrun.adapters.lora import Lora
from dbrun.formats.base import formats
from dbrun.images.buckets import CropBox
from dbrun.models.base import Condition, Family, Model, Randn, families
from dbrun.models.sdxl import StableDiffusionXL, StableDiffusionXLModel
from dbrun.models.unet import drop_variance_channels
from dbrun.stages.preprocess import as_tensor
from dbrun.stages.support.crops import Crop

FAMILIES = families()
DDPM = sorted(name for name, family in FAMILIES.items() if family.process == "ddpm")
"""Families with schedulers of betas; those of flow matching are in `test_flow_families.py`."""
PROMPTS = ("a photo of sks dog", "a dog on the grass", "")
WIDTH, HEIGHT = 48, 32
RESULTS = {"hidden": (0, 1), "pooled": (2, 3)}
"""Place of a tensor for the prompt, and of the one for the negative prompt, in what `encode_prompt` returns."""
IMAGE_TO_IMAGE = {"StableDiffusionPipeline": "StableDiffusionImg2ImgPipeline",
                  "StableDiffusionXLPipeline": "StableDiffusionXLImg2ImgPipeline"}
SIZED = [name for name, family in FAMILIES.items() if family.size_conditioned]
WITH_LATENTS = [name for name in DDPM if FAMILIES[name].autoencoder]


@dataclass(frozen=True)
class Case:
    """A family with a tiny base of it."""

    family: Family
    folder: Path

    def load(self) -> Model:
        return self.family.load(self.folder, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    made: dict[str, Case] = {}

    def case(name: str) -> Case:
        if name not in made:
            folder = tmp_path_factory.mktemp("oracles") / name
            FAMILIES[name].write_tiny_base(folder)
            made[name] = Case(FAMILIES[name], folder)
        return made[name]

    return case


def picture() -> Image.Image:
    values = torch.randint(256, (HEIGHT, WIDTH, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    return Image.fromarray(values.numpy())


def drawn_by(generator: torch.Generator) -> Randn:
    return lambda _, shape: torch.randn(1, *shape, generator=generator)


def check_prompts(case: Case) -> None:
    model = case.load()
    with torch.no_grad():
        for prompt in PROMPTS[:2]:
            theirs = model.pipeline.encode_prompt(prompt, device="cpu", num_images_per_prompt=1,
                                                  do_classifier_free_guidance=True)
            pair = model.encode_prompts([prompt])[0], model.encode_prompts([""])[0]
            for name in pair[0]:
                for place, ours in zip(RESULTS[name], pair, strict=True):
                    assert torch.equal(ours[name], theirs[place][0]), (prompt, name, place)


def check_latents(case: Case) -> None:
    """Latents and their noising, both with noise of one generator, as image-to-image begins."""
    model = case.load()
    image_to_image = getattr(diffusers, IMAGE_TO_IMAGE[case.family.pipeline_classes[0]])
    scheduler = diffusers.DDPMScheduler.from_config(model.scheduler.config)
    components = {**model.pipeline.components, "scheduler": scheduler}
    pipeline = image_to_image(**{name: part for name, part in components.items() if part is not None},
                              **({"safety_checker": None, "feature_extractor": None, "image_encoder": None,
                                  "requires_safety_checker": False} if "safety_checker" in components else {}))
    pixels = pipeline.image_processor.preprocess(picture())
    assert torch.equal(pixels, as_tensor(picture())[None])
    t = torch.tensor([321])
    with torch.no_grad():
        theirs = pipeline.prepare_latents(pixels, t, 1, 1, torch.float32, torch.device("cpu"),
                                          generator=torch.Generator().manual_seed(9))
        generator = torch.Generator().manual_seed(9)
        x0 = model.sample_x0(model.encode_images(pixels), drawn_by(generator), case.family.class_labels[0]).x0
        ours = model.diffusion_process().add_noise(x0, torch.randn(x0.shape, generator=generator), t)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def captured(model: Model, **call: Any) -> tuple[Tensor, Tensor, Mapping[str, Any], Tensor]:
    """Sample, timestep and keywords of the denoiser's second call in the pipeline, and what it returned."""
    calls: list[tuple[Any, Any, Any]] = []

    def keep(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        calls.append((args, kwargs, output))

    pipeline = model.pipeline
    pipeline.set_progress_bar_config(disable=True)
    handle = pipeline.unet.register_forward_hook(keep, with_kwargs=True)
    pipeline(PROMPTS[0], num_inference_steps=3, guidance_scale=1.0, width=WIDTH, height=HEIGHT,
             generator=torch.Generator().manual_seed(2), **call)
    handle.remove()
    (sample, t), kwargs, output = calls[1]
    return sample, t, kwargs, output[0]


def check_prediction(case: Case, crop: Crop | None = None) -> None:
    """crop: of a picture whose sizes the denoiser is told, None for those that the pipeline makes up."""
    model, call, condition = case.load(), dict[str, Any](), dict[str, Tensor]()
    if case.family.start_image_reason is not None:
        call["image"] = picture().resize((WIDTH // 4, HEIGHT // 4))
    if crop is not None:
        assert crop.size is not None and crop.frame is not None
        call |= {"original_size": crop.size[::-1], "target_size": (HEIGHT, WIDTH),
                 "crops_coords_top_left": (crop.frame.top, crop.frame.left)}
        condition["time_ids"] = torch.tensor([crop.time_ids(HEIGHT)])
    sample, t, kwargs, theirs = captured(model, **call)
    x_t = sample
    if kwargs.get("class_labels") is not None:
        x_t, condition["low"] = sample.chunk(2, dim=1)
        condition["class_labels"] = kwargs["class_labels"]
    with torch.no_grad():
        told: Condition = {**model.collate_conditions(model.encode_prompts(PROMPTS[:1])), **condition}
        ours = model.predict(x_t, t.reshape(1).long(), told)
    assert torch.equal(ours, drop_variance_channels(theirs, x_t))


def widest(family: Family, component: str) -> str:
    return list(family.target_presets[component])[-1]


def put_lora(model: Model, preset: str) -> dict[str, ComponentAdapter]:
    """A LoRA on every component, by this preset, or its widest where it has no such preset."""
    adapters = {}
    for seed, component in enumerate(model.family.diffusers_prefixes):
        presets = model.family.target_presets[component]
        chosen = preset if preset in presets else widest(model.family, component)
        module, lora = model.module(component), Lora(type="lora", rank=2, alpha=3.0, targets=chosen)
        modules = match_layers(module, presets[chosen])
        attach(module, lora, modules, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
        adapters[component] = ComponentAdapter(lora, modules, read_weights(module))
    return adapters


def answer(model: Model) -> Tensor:
    with torch.no_grad():
        stored = model.encode_images(as_tensor(picture())[None])
        x0, more = model.sample_x0(stored, lambda _, shape: torch.zeros(1, *shape), model.family.class_labels[0])
        condition = {**model.collate_conditions(model.encode_prompts(PROMPTS[:1])), **more}
        return model.predict(x0, torch.tensor([500]), condition)


def check_lora(case: Case, form: str, preset: str, folder: Path) -> None:
    """A file as `load_lora_weights` reads it, on all components at once and with the scale that it was trained with."""
    trained, theirs = case.load(), case.load()
    base = answer(trained)
    (file,) = formats()[form].write(folder, case.family, put_lora(trained, preset), case.load)
    theirs.pipeline.load_lora_weights(str(folder), weight_name=file.name)
    expected = answer(trained)
    effect = (expected - base).abs().max()
    assert effect > 1e-2
    assert (answer(theirs) - expected).abs().max() < 2e-5 * max(1.0, float(effect))


@pytest.mark.parametrize("name", DDPM)
def test_prompts_are_encoded_as_the_pipeline_does(cases, name: str) -> None:
    check_prompts(cases(name))


@pytest.mark.parametrize("name", WITH_LATENTS)
def test_pixels_latents_and_noise_are_those_of_image_to_image(cases, name: str) -> None:
    check_latents(cases(name))


@pytest.mark.parametrize("name", DDPM)
def test_the_process_is_the_schedulers(cases, name: str) -> None:
    model = cases(name).load()
    scheduler = diffusers.DDPMScheduler.from_config(model.scheduler.config)
    x0, noise = torch.randn(2, 1, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    for t in (torch.tensor([at]) for at in (3, 400, 998)):
        ours = model.diffusion_process().add_noise(x0, noise, t)
        torch.testing.assert_close(ours, scheduler.add_noise(x0, noise, t), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", DDPM)
def test_the_denoiser_is_asked_as_the_pipeline_asks_it(cases, name: str) -> None:
    check_prediction(cases(name))


def sized_crop() -> Crop:
    return Crop("instance.00000", "", "", bytes, (100, 60), CropBox((56, 34), 5, 2, (WIDTH, HEIGHT)))


@pytest.mark.parametrize("name", SIZED)
def test_a_crop_is_told_as_the_pipeline_is_told(cases, name: str) -> None:
    check_prediction(cases(name), sized_crop())


def lora_cases() -> Iterator[Any]:
    """Every family, format and preset of its denoiser; by default one family of each kind, and the widest preset.

    SDXL is one more by default: its denoiser has more inputs than the others of its kind, and files of their names.
    """
    usual = representatives() | {"sdxl"}
    for name, family in FAMILIES.items():
        for form in ("diffusers", "kohya"):
            # diffusers splits joined layers at the published widths alone: see formats/test_joined_layers.py
            if form == "kohya" and (not family.kohya_prefixes or family.joins_layers("denoiser")):
                continue
            for preset in family.target_presets["denoiser"]:
                is_usual = name in usual and preset == widest(family, "denoiser")
                yield pytest.param(name, form, preset, marks=() if is_usual else pytest.mark.slow)


@pytest.mark.parametrize(("name", "form", "preset"), lora_cases())
def test_a_lora_is_read_exactly(cases, name: str, form: str, preset: str, tmp_path: Path) -> None:
    check_lora(cases(name), form, preset, tmp_path)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_name_in_a_file_is_a_layers(cases, name: str, tmp_path: Path) -> None:
    case, model = cases(name), cases(name).load()
    (file,) = formats()["diffusers"].write(tmp_path, case.family, put_lora(case.load(), "all"), case.load)
    for tensor in load_file(file):
        part, _, layer = tensor.partition(".")
        layer = layer.rpartition(".lora_")[0]
        known = {layer for layer, _ in model.component(part).named_modules()}
        # transformers completes names in files, which keep what it has dropped from the module's own
        assert layer in known or layer.removeprefix("text_model.") in known, tensor


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_prompts_and_pictures_are_encoded_together_as_alone(cases, name: str) -> None:
    model = cases(name).load()
    pixels = torch.rand(3, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        for together, prompt in zip(model.encode_prompts(PROMPTS), PROMPTS, strict=True):
            alone = model.encode_prompts([prompt])[0]
            assert together.keys() == alone.keys()
            for key, tensor in alone.items():
                torch.testing.assert_close(together[key], tensor, rtol=0, atol=1e-5)
        for together, one in zip(model.encode_images(pixels), pixels, strict=True):
            torch.testing.assert_close(together, model.encode_images(one[None])[0], rtol=0, atol=1e-5)


def _swapped_sides(self: StableDiffusionXLModel, x_t: Tensor, condition: Condition) -> Mapping[str, Tensor]:
    told = dict(RIGHT["added_conditions"](self, x_t, condition))
    told["time_ids"] = told["time_ids"][:, [1, 0, 2, 3, 5, 4]]
    return told


def _last_state(self: StableDiffusionXLModel, prompts: Any) -> list[Condition]:
    return _encoded(self, prompts, lambda states: states[-1])


def _encoders_swapped(self: StableDiffusionXLModel, prompts: Any) -> list[Condition]:
    first, second = (self.component(name).config.hidden_size for name in self.family.text_encoders)
    conditions = []
    for condition in RIGHT["encode_prompts"](self, prompts):
        halves = condition["hidden"].split([first, second], dim=-1)
        conditions.append({**condition, "hidden": torch.cat(halves[::-1], dim=-1)})
    return conditions


def _no_zeros(self: StableDiffusionXLModel, prompts: Any) -> list[Condition]:
    return RIGHT["encode_prompts"](self, [prompt or " " for prompt in prompts])


def _encoded(model: StableDiffusionXLModel, prompts: Any, pick: Callable[[Any], Tensor]) -> list[Condition]:
    conditions = RIGHT["encode_prompts"](model, prompts)
    states = []
    for name, encoder in zip(model.family.tokenizers, model.family.text_encoders, strict=True):
        tokens = model.component(name)(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
        states.append(pick(model.component(encoder)(tokens.input_ids, output_hidden_states=True).hidden_states))
    rows = torch.cat(states, dim=-1)
    return [{**condition, "hidden": row} if any(prompts) else condition
            for condition, row in zip(conditions, rows, strict=True)]


RIGHT: dict[str, Any] = {name: getattr(StableDiffusionXLModel, name) for name in ("added_conditions", "encode_prompts")}
MUTANTS: dict[str, tuple[type, str, Any, Callable[[Case, Path], None]]] = {
    "width and height swapped": (StableDiffusionXLModel, "added_conditions", _swapped_sides,
                                 lambda case, _: check_prediction(case)),
    "last state": (StableDiffusionXLModel, "encode_prompts", _last_state, lambda case, _: check_prompts(case)),
    "encoders swapped": (StableDiffusionXLModel, "encode_prompts", _encoders_swapped,
                         lambda case, _: check_prompts(case)),
    "no zeros": (StableDiffusionXLModel, "encode_prompts", _no_zeros, lambda case, _: check_prompts(case)),
    "other scale": (StableDiffusionXLModel, "_scaling_factor", 0.18215, lambda case, _: check_latents(case)),
    "left and top swapped": (Crop, "time_ids", lambda self, side: (60, 100, 5, 2, HEIGHT, WIDTH),
                             lambda case, _: check_prediction(case, sized_crop())),
    "prefix of the other encoder": (
        StableDiffusionXL, "diffusers_prefixes",
        {**StableDiffusionXL.diffusers_prefixes, "text_encoder_2": ("text_model.", "text_encoder_2.text_model.")},
        lambda case, folder: check_lora(case, "diffusers", "all", folder)),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_caught(cases, mutant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    owner, attribute, wrong, check = MUTANTS[mutant]
    case = cases("sdxl")
    monkeypatch.setattr(owner, attribute, wrong)
    with pytest.raises(AssertionError):
        check(case, tmp_path)
