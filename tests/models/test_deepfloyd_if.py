"""Do the DeepFloyd IF families agree with diffusers' own pipelines?"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import IFPipeline, IFSuperResolutionPipeline
from picture_sets import picture_set
from PIL import Image
from torch import Tensor

from dbrun.adapters.attach import match_layers
from dbrun.errors import RecipeError, StageFailed
from dbrun.models import deepfloyd_if
from dbrun.models.base import Model, Randn
from dbrun.models.deepfloyd_if import NOISE_LEVEL, PROMPT_LENGTH, IFStage1, IFStage2
from dbrun.training.batches import Batches

CPU = torch.device("cpu")
ONE, TWO = IFStage1(), IFStage2()
STAGES = {"one": (ONE, IFPipeline), "two": (TWO, IFSuperResolutionPipeline)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    place = tmp_path_factory.mktemp("if")
    for name, (family, _) in STAGES.items():
        family.write_tiny_base(place / name)
    return {name: place / name for name in STAGES}


@pytest.fixture(scope="module")
def one(folders: Mapping[str, Path]) -> Model:
    return ONE.load(folders["one"], device=CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def two(folders: Mapping[str, Path]) -> Model:
    return TWO.load(folders["two"], device=CPU, dtype=torch.float32)


def drawn_from(seed: int) -> Randn:
    generator = torch.Generator().manual_seed(seed)
    return lambda _, shape: torch.randn(1, *shape, generator=generator)


def small_picture() -> Image.Image:
    noise = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return Image.fromarray(noise.numpy())


def blown_up(picture: Image.Image) -> Tensor:
    """[1, 3, 32, 32] in [-1, 1], of which the picture is the average over squares of 4 x 4."""
    import numpy as np

    low = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1.0
    return low[None].repeat_interleave(4, 2).repeat_interleave(4, 3)


def asked(unet: torch.nn.Module, call: Any) -> list[dict[str, Tensor]]:
    """What the UNet is given while call runs."""
    seen: list[dict[str, Tensor]] = []

    def record(module: torch.nn.Module, words: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        tensors = {k: v for k, v in named.items() if isinstance(v, torch.Tensor)}
        seen.append({**dict(zip(("sample", "timestep"), words, strict=False)), **tensors})

    handle = unet.register_forward_pre_hook(record, with_kwargs=True)
    try:
        call()
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize("stage", STAGES)
def test_prompts_are_encoded_as_the_pipeline_does(folders: Mapping[str, Path], stage: str) -> None:
    family, _ = STAGES[stage]
    model = family.load(folders[stage], device=CPU, dtype=torch.float32)
    prompts = ["  A photo of SKS dog ", "a dog " * 100]
    with torch.no_grad():
        ours = model.collate_conditions(model.encode_prompts(prompts))["hidden"]
    theirs, _ = model.pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False, device=CPU)
    assert ours.shape[1] == PROMPT_LENGTH
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_padding_is_masked_in_the_text_encoder(one: Model) -> None:
    tokens = one.pipeline.tokenizer(["a dog"], padding="max_length", max_length=PROMPT_LENGTH, return_tensors="pt")
    with torch.no_grad():
        unmasked = one.pipeline.text_encoder(tokens.input_ids)[0][0]
        ours = one.encode_prompts(["a dog"])[0]["hidden"]
    assert not torch.allclose(ours, unmasked, atol=1e-4)


def test_the_prompt_limit_is_what_comes_through(folders: Mapping[str, Path], one: Model) -> None:
    limit = ONE.prompt_limits(folders["one"])[0].tokens
    just, over = ("x" * n for n in (limit - 1, limit))
    encode = one.pipeline.tokenizer
    assert [len(encode(text).input_ids) for text in (just, over)] == [PROMPT_LENGTH - 1, PROMPT_LENGTH]


@pytest.mark.parametrize("stage", STAGES)
def test_a_picture_is_that_of_the_pipeline(folders: Mapping[str, Path], stage: str) -> None:
    family, kind = STAGES[stage]
    reference = kind.from_pretrained(folders[stage], local_files_only=True, safety_checker=None)
    reference.set_progress_bar_config(disable=True)
    small = {"image": small_picture()} if family.start_image_reason else {}
    expected = reference("A dog", num_inference_steps=3, guidance_scale=4.0, width=32, height=32, clean_caption=False,
                         generator=torch.Generator().manual_seed(8), **small).images[0]
    model = family.load(folders[stage], device=CPU, dtype=torch.float32)
    ours = model.generate("A dog", seed=8, steps=3, guidance=4.0, resolution=32,
                           start_image=small.get("image"))
    assert ours.tobytes() == expected.tobytes()


def test_a_picture_without_the_small_one_it_enlarges_is_refused(two: Model) -> None:
    for start in (None, Image.new("RGB", (32, 32))):
        with pytest.raises(StageFailed, match="of 8×8 pixels"):
            two.generate("a dog", seed=0, steps=1, guidance=1.0, resolution=32, start_image=start)


def test_stage_one_asks_the_unet_what_the_pipeline_asks_it(one: Model) -> None:
    """The same noise at the same time gives the same input and, of six channels, the same three as prediction."""
    unet, process = one.pipeline.unet, one.diffusion_process()
    theirs = asked(unet, lambda: one.pipeline("a dog", num_inference_steps=1, guidance_scale=1.0, clean_caption=False,
                                              generator=torch.Generator().manual_seed(3)))[0]
    x0, extra_conditions = one.sample_x0(one.encode_images(torch.zeros(1, 3, 32, 32)), drawn_from(3), "none")
    assert not extra_conditions and torch.equal(x0, torch.zeros(1, 3, 32, 32))
    noise, t = drawn_from(3)("noise", (3, 32, 32)), theirs["timestep"][None]
    condition = one.collate_conditions(one.encode_prompts(["a dog"]))
    with torch.no_grad():
        ours = asked(unet, lambda: one.predict(noise, t, condition))[0]
        output = unet(noise, t, encoder_hidden_states=condition["hidden"]).sample
        assert output.shape[1] == 6 and torch.equal(one.predict(noise, t, condition), output[:, :3])
    assert torch.equal(ours["sample"], theirs["sample"])
    torch.testing.assert_close(ours["encoder_hidden_states"], theirs["encoder_hidden_states"], rtol=0, atol=1e-6)
    assert process.num_timesteps == 1000 and "class_labels" not in ours and "class_labels" not in theirs


def test_stage_two_asks_the_unet_what_the_pipeline_asks_it(two: Model) -> None:
    """The noised, enlarged small picture beside x_t and its noise level as class labels, all equal to 1e-6."""
    unet, small = two.pipeline.unet, small_picture()
    theirs = asked(unet, lambda: two.pipeline("a dog", image=small, num_inference_steps=1, guidance_scale=1.0,
                                              height=32, width=32, clean_caption=False,
                                              generator=torch.Generator().manual_seed(3)))[0]
    randn = drawn_from(3)
    x_t = randn("noise", (3, 32, 32))
    _, extra_conditions = two.sample_x0(blown_up(small), randn, "noise_level")
    condition = {**two.collate_conditions(two.encode_prompts(["a dog"])), **extra_conditions}
    with torch.no_grad():
        ours = asked(unet, lambda: two.predict(x_t, theirs["timestep"][None], condition))[0]
    assert ours.keys() == theirs.keys() == {"sample", "timestep", "encoder_hidden_states", "class_labels"}
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name].squeeze(), tensor.squeeze(), rtol=0, atol=1e-6, msg=name)
    assert ours["class_labels"].tolist() == [NOISE_LEVEL]


def test_the_class_labels_timesteps_are_the_training_scripts_way(two: Model) -> None:
    """diffusers' script: the noisy picture twice, and the timesteps as class labels."""
    x_t, t = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 700])
    x0, extra_conditions = two.sample_x0(x_t, drawn_from(0), "timesteps")
    condition = {**two.collate_conditions(two.encode_prompts(["a dog"] * 2)), **extra_conditions}
    with torch.no_grad():
        ours = asked(two.pipeline.unet, lambda: two.predict(x_t, t, condition))[0]
    assert torch.equal(x0, x_t) and torch.equal(ours["sample"], torch.cat([x_t, x_t], dim=1))
    assert torch.equal(ours["class_labels"], t)


def test_the_small_pictures_noise_belongs_to_a_place_in_the_row(two: Model) -> None:
    """2 x 3 accumulated pictures are told the same as one batch of 6, and no two rows share noise."""
    pictures = [torch.full((3, 32, 32), i / 5) for i in range(5)]

    def batches(size: int) -> Batches:
        return Batches([picture_set("instance", pictures, [0] * 5)], 0, size, 1000,
                       lambda rows, randn: two.sample_x0(rows, randn, "noise_level"))

    large, small = batches(6)(1), [batches(2)(n) for n in (3, 4, 5)]
    for hint in ("low", "class_labels"):
        assert torch.equal(large.extra_conditions[hint], torch.cat([b.extra_conditions[hint] for b in small]))
    flat = {(row - row.mean()).numpy().tobytes() for row in large.extra_conditions["low"]}
    assert len(flat) == 6
    again = batches(6)(1)
    assert torch.equal(again.extra_conditions["low"], large.extra_conditions["low"])
    assert torch.equal(again.noise, large.noise)


def test_what_suits_the_base_is_the_pipelines_own() -> None:
    for family, kind in STAGES.values():
        usual = {k: p.default for k, p in inspect.signature(kind.__call__).parameters.items()}
        assert (usual["num_inference_steps"], usual["guidance_scale"]) == (family.default_sampling.steps,
                                                                           family.default_sampling.guidance)
    assert usual["noise_level"] == NOISE_LEVEL


def test_published_sizes(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    for depth, expected in ((4, (8, 8)), (1, (1, 4)), (2, (2, 4))):
        (tmp_path / "unet" / "config.json").write_text(json.dumps({"block_out_channels": [64] * depth}))
        assert (ONE.resolution_multiple(tmp_path), TWO.resolution_multiple(tmp_path)) == expected


@pytest.mark.parametrize("stage", STAGES)
def test_every_pattern_of_the_presets_is_a_layer(folders: Mapping[str, Path], stage: str) -> None:
    family, _ = STAGES[stage]
    unet = family.load(folders[stage], device=CPU, dtype=torch.float32).pipeline.unet
    for patterns in family.target_presets["denoiser"].values():
        for pattern in patterns:
            assert match_layers(unet, [pattern]), pattern


def test_attention_reaches_the_prompts_own_projections(one: Model) -> None:
    found = match_layers(one.pipeline.unet, ONE.target_presets["denoiser"]["attention"])
    assert {"add_k_proj", "add_v_proj"} <= {name.rpartition(".")[2] for name in found}


def test_diffusers_loads_no_adapter_on_t5(one: Model, tmp_path: Path) -> None:
    """Why the text encoder is not adapted: this fails as soon as the reason is gone."""
    from safetensors.torch import save_file

    name = "text_encoder.encoder.block.0.layer.0.SelfAttention.q"
    save_file({f"{name}.lora_A.weight": torch.ones(2, 24), f"{name}.lora_B.weight": torch.ones(24, 2)},
              tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(ValueError, match="state dict type"):
        one.pipeline.load_lora_weights(str(tmp_path))


def test_words_that_need_another_package_are_told(folders: Mapping[str, Path], tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """The published bases hold only `spiece.model`."""
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "spiece.model").write_bytes(b"")
    monkeypatch.setattr(deepfloyd_if, "import_module", missing)
    with pytest.raises(RecipeError, match="sentencepiece") as caught:
        ONE.load(tmp_path, device=CPU, dtype=torch.float32)
    assert caught.value.fix == "pip install sentencepiece protobuf"
    ONE.load(folders["one"], device=CPU, dtype=torch.float32)
