"""Does the Stable Diffusion family agree with diffusers' own pipeline?"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.attach import attach, match_layers, read_weights
from dbrun.adapters.lora import Lora
from dbrun.errors import RecipeError
from dbrun.formats.base import formats
from dbrun.models.base import Model
from dbrun.models.sd import StableDiffusion

CPU = torch.device("cpu")
SD = StableDiffusion()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sd")
    SD.write_tiny_base(place)
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return SD.load(folder, device=CPU, dtype=torch.float32)


def written(place: Path, config: dict[str, Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(config))


def test_published_sizes(tmp_path: Path) -> None:
    for part in ("vae", "unet"):
        written(tmp_path / part / "config.json", {"block_out_channels": [128, 256, 512, 512]})
    written(tmp_path / "text_encoder" / "config.json", {"max_position_embeddings": 77})
    written(tmp_path / "tokenizer" / "tokenizer_config.json", {"model_max_length": 10**30})
    assert (SD.resolution_multiple(tmp_path), SD.prompt_limits(tmp_path)[0].tokens) == (64, 75)


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{")
    with pytest.raises(RecipeError, match=r"vae/config\.json"):
        SD.resolution_multiple(tmp_path)


def test_prompts_are_encoded_as_the_pipeline_does(model: Model) -> None:
    prompts = ["a photo of sks dog", "a dog " * 100]
    ours = model.collate_conditions(model.encode_prompts(prompts))["hidden"]
    theirs, _ = model.pipeline.encode_prompt(prompts, CPU, 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_an_attention_mask_is_used_where_the_text_encoder_asks_for_it(folder: Path) -> None:
    masked = SD.load(folder, device=CPU, dtype=torch.float32)
    before = masked.encode_prompts(["a dog"])[0]["hidden"]
    masked.pipeline.text_encoder.config.use_attention_mask = True
    ours = masked.encode_prompts(["a dog"])[0]["hidden"]
    theirs, _ = masked.pipeline.encode_prompt("a dog", CPU, 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(ours, theirs[0], rtol=0, atol=1e-6)
    assert not torch.allclose(ours, before)


def test_latents_are_drawn_as_diffusers_does(model: Model) -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    vae = model.pipeline.vae
    expected = vae.encode(pixels).latent_dist.sample(torch.Generator().manual_seed(4)) * vae.config.scaling_factor
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    ours, extra_conditions = model.sample_x0(model.encode_images(pixels),
                                          lambda _, shape: noise.view(2, *shape), "none")
    assert not extra_conditions
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_a_picture_is_that_of_the_pipeline_with_dpm_solver(folder: Path, model: Model) -> None:
    reference = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    reference.scheduler = DPMSolverMultistepScheduler.from_config(reference.scheduler.config)
    expected = reference("a dog", num_inference_steps=3, guidance_scale=4.0, width=32, height=32,
                         generator=torch.Generator().manual_seed(8)).images[0]
    ours = model.generate("a dog", seed=8, steps=3, guidance=4.0, resolution=32)
    assert ours.tobytes() == expected.tobytes()


def test_variance_channels_are_dropped(model: Model) -> None:
    config = {**model.pipeline.unet.config, "out_channels": 8}
    twice = UNet2DConditionModel.from_config(config).eval()
    other = SD.load(model.folder, device=CPU, dtype=torch.float32)
    other.replace_components({"unet": twice})
    x_t, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2])
    hidden = torch.zeros(2, 77, 32)
    with torch.no_grad():
        pred = other.predict(x_t, t, {"hidden": hidden})
        assert torch.equal(pred, twice(x_t, t, encoder_hidden_states=hidden).sample[:, :4])


def test_an_inpainting_base_is_refused(folder: Path, tmp_path: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.unet = UNet2DConditionModel.from_config({**pipeline.unet.config, "in_channels": 9})
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="9 channels"):
        SD.load(tmp_path, device=CPU, dtype=torch.float32)


def test_pickled_weights_are_never_read(folder: Path, tmp_path: Path) -> None:
    StableDiffusionPipeline.from_pretrained(folder, local_files_only=True).save_pretrained(
        tmp_path, safe_serialization=False)
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(RecipeError, match="safetensors"):
        SD.load(tmp_path, device=CPU, dtype=torch.float32).component("unet")


def test_a_variant_is_loaded_in_the_dtype_asked_for(folder: Path, tmp_path: Path) -> None:
    """Files in 16 bits must not leave a mix of dtypes behind."""
    StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float16, local_files_only=True).save_pretrained(
        tmp_path, variant="fp16")
    model = SD.load(tmp_path, device=CPU, dtype=torch.float32, variant="fp16")
    for part in (model.pipeline.unet, model.pipeline.vae, model.pipeline.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    with pytest.raises(RecipeError, match="variant"):
        SD.load(tmp_path, device=CPU, dtype=torch.float32, variant="bf16").component("unet")


def test_the_text_encoder_keeps_its_old_names_and_alpha_is_folded(model: Model, folder: Path,
                                                                  tmp_path: Path) -> None:
    module = SD.load(folder, device=CPU, dtype=torch.float32).module("text_encoder")
    lora = Lora(type="lora", rank=2, alpha=8, targets="attention")
    modules = match_layers(module, SD.target_presets["text_encoder"]["attention"])
    attach(module, lora, modules, seed=0)
    state = {name: torch.ones_like(tensor) for name, tensor in read_weights(module).items()}
    path, = formats()["diffusers"].write(tmp_path, SD, {"text_encoder": ComponentAdapter(lora, modules, state)},
                                            lambda: model)
    tensors = load_file(path)
    assert all(name.startswith("text_encoder.text_model.encoder.layers.") for name in tensors)
    assert {t.unique().item() for n, t in tensors.items() if ".lora_B." in n} == {4.0}
    assert {t.unique().item() for n, t in tensors.items() if ".lora_A." in n} == {1.0}
