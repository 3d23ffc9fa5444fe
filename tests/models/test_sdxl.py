"""Facts of SDXL: which bases are refused, its VAE's dtype, its scheduler, its limits, and new words in two encoders."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_settings import train_settings

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.attach import attach, match_layers, read_weights
from dbrun.adapters.embedding import Embedding
from dbrun.adapters.lora import Lora
from dbrun.errors import RecipeError
from dbrun.formats.base import formats
from dbrun.images.buckets import CropBox
from dbrun.models.base import Model, families
from dbrun.models.prompt_encoding import NOTHING_KNOWN, KnownOutputs, frozen_encoders
from dbrun.stages.load import check_layout, select_files
from dbrun.stages.support.crops import Crop
from dbrun.training.batches import Batch
from dbrun.training.loop import Trainer
from dbrun.training.prompt_embeds import live_prompts

SDXL, SD = families()["sdxl"], families()["sd"]
PROMPT = "a photo of <sks> dog"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdxl") / "base"
    SDXL.write_tiny_base(folder)
    return folder


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Model:
    return SDXL.load(folder, device=torch.device("cpu"), dtype=dtype)


def changed(base: Path, folder: Path, file: str, **settings: Any) -> Path:
    """A copy of the base with other settings in one of its configs, and without any weights."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


@pytest.mark.parametrize(("file", "settings", "told"), [
    ("model_index.json", {"requires_aesthetics_score": True}, "a refiner"),
    ("model_index.json", {"text_encoder": [None, None]}, "a refiner"),
    ("unet/config.json", {"projection_class_embeddings_input_dim": 60}, "takes 5 numbers for a picture's sizes"),
    ("unet/config.json", {"addition_embed_type": None}, "does not take the picture's size"),
    ("unet/config.json", {"in_channels": 9}, "not a text-to-image base"),
    ("vae/config.json", {"latents_mean": [-1.6, 1.1, -0.3, 0.9]}, "`latents_mean`.*Playground v2.5"),
    ("vae/config.json", {"latents_std": [8.4, 5.9, 5.3, 6.3]}, "`latents_std`"),
    ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "noise levels of EDM"),
])
def test_other_bases_are_refused_before_weights_are_read(base: Path, tmp_path: Path, file: str,
                                                         settings: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        load(changed(base, tmp_path / "other", file, **settings))


@pytest.mark.parametrize(("name", "told"), [
    ("StableDiffusionXLImg2ImgPipeline", "a refiner"), ("StableDiffusionXLInpaintPipeline", "inpainting"),
    ("StableDiffusionInpaintPipeline", "inpainting")])
@pytest.mark.parametrize("family", [SD, SDXL], ids=["sd", "sdxl"])
def test_pipelines_of_another_kind_are_refused_in_words(base: Path, tmp_path: Path, family, name: str,
                                                        told: str) -> None:
    folder = tmp_path / "other"
    shutil.copytree(base, folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": name}))
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    with pytest.raises(RecipeError, match=f"{name}, .*{told}"):
        check_layout(folder, family, select_files(names, family.subfolders, None), names)


def test_an_empty_prompt_is_encoded_where_the_base_does_not_force_zeros(base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(base, other)
    index = other / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "force_zeros_for_empty_prompt": False}))
    model = load(other)
    with torch.no_grad():
        theirs = model.pipeline.encode_prompt(PROMPT, device="cpu", num_images_per_prompt=1)
        ours = model.encode_prompts([""])[0]
        zeros = load(base).encode_prompts([""])[0]
    assert torch.equal(ours["hidden"], theirs[1][0]) and torch.equal(ours["pooled"], theirs[3][0])
    assert ours["pooled"].abs().max() > 0 and not any(tensor.any() for tensor in zeros.values())


def test_the_vae_stays_in_32_bits_and_pictures_are_drawn_beside_it(base: Path) -> None:
    model = load(base, torch.bfloat16)
    picture = model.generate("a dog", seed=0, steps=2, guidance=3.0, resolution=32)
    dtypes = {name: next(model.component(name).parameters()).dtype for name in SDXL.weight_components}
    assert dtypes.pop("vae") == torch.float32 and set(dtypes.values()) == {torch.bfloat16}
    assert picture.size == (32, 32)


def test_a_picture_is_the_pipelines_own(base: Path) -> None:
    model = load(base)
    ours = model.generate("a dog", seed=3, steps=3, guidance=4.0, resolution=32)
    pipeline = model.pipeline
    theirs = pipeline("a dog", num_inference_steps=3, guidance_scale=4.0, width=32, height=32,
                      generator=torch.Generator("cpu").manual_seed(3)).images[0]
    assert ours.tobytes() == theirs.tobytes()


def test_a_base_of_v_prediction_and_zero_terminal_snr_is_trained_and_drawn_as_one(base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(base, other)
    path = other / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction",
                                "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}))
    model = load(other)
    process, scheduler = model.diffusion_process(), model.sampling_scheduler()
    assert process.prediction == "v_prediction" and process.snr(torch.tensor([999])) == 0
    scheduler.set_timesteps(4)
    assert scheduler.config.prediction_type == "v_prediction" and scheduler.timesteps[0] == 999
    model.generate("a dog", seed=0, steps=2, guidance=3.0, resolution=32)


def test_published_sizes(tmp_path: Path) -> None:
    """The facts that a plan needs, by the configs of stable-diffusion-xl-base-1.0."""
    configs = {"unet/config.json": {"sample_size": 128, "block_out_channels": [320, 640, 1280]},
               "vae/config.json": {"block_out_channels": [128, 256, 512, 512]},
               "text_encoder/config.json": {"max_position_embeddings": 77},
               "text_encoder_2/config.json": {"max_position_embeddings": 77},
               "tokenizer/tokenizer_config.json": {"model_max_length": 77},
               "tokenizer_2/tokenizer_config.json": {"model_max_length": 60}}
    for name, config in configs.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(config))
    assert (SDXL.native_resolution(tmp_path), SDXL.resolution_multiple(tmp_path)) == (1024, 32)
    assert SDXL.prompt_limits(tmp_path)[0].tokens == 58, "the shorter of the two"


@pytest.mark.parametrize(("crop", "told"), [
    (Crop("a", "", "", bytes), (64, 64, 0, 0, 64, 64)),
    (Crop("a", "", "", bytes, (300, 100)), (100, 300, 0, 64, 64, 64)),
    (Crop("a", "", "", bytes, (300, 100), CropBox((96, 32), 10, 0, (64, 32))), (100, 300, 0, 10, 32, 64)),
    (Crop("a", "", "", bytes, (300, 100), CropBox((96, 32), 10, 0, (64, 32), mirrored=True)),
     (100, 300, 0, 22, 32, 64))],
    ids=["of the base", "centre", "bucket", "mirrored"])
def test_the_sizes_of_a_crop(crop: Crop, told: tuple[int, ...]) -> None:
    assert crop.time_ids(64) == told


def put_word(model: Model, vectors: int = 3) -> ComponentAdapter:
    word = Embedding(token="<sks>", initializer="dog", vectors=vectors)
    attach(model.module("trigger"), word, (), seed=0)
    return ComponentAdapter(word, (), read_weights(model.module("trigger")))


def put_lora(model: Model, component: str) -> None:
    module, lora = model.module(component), Lora(type="lora", rank=2, alpha=2.0, targets="all")
    attach(module, lora, match_layers(module, SDXL.target_presets[component]["all"]), seed=0)


def trained(model: Model, components: tuple[str, ...], prompts: tuple[str, ...],
            known: KnownOutputs = NOTHING_KNOWN) -> Trainer:
    """A training of three steps under these prompts, one after the other."""
    settings = train_settings(steps=3, learning_rate=0.05, accumulation=1, precision="fp32", seed=0)
    trainer = Trainer(model, components, live_prompts(model, prompts, known=known), settings)
    draw = torch.Generator().manual_seed(1)
    for step in range(3):
        x0, noise = (torch.randn(1, 4, 8, 8, generator=draw) for _ in range(2))
        trainer.step([Batch(x0, noise, torch.tensor([300 + step]), (step % len(prompts),), 1)])
    return trainer


def test_a_word_learns_in_both_encoders_and_is_read_by_diffusers(base: Path, tmp_path: Path) -> None:
    model, theirs, form = load(base), load(base), formats()["embedding"]
    first = put_word(model)
    state = trained(model, ("trigger",), (PROMPT,)).adapter_states()["trigger"]
    assert {name: tuple(v.shape) for name, v in state.items()} == {"<sks>.clip_g": (3, 24), "<sks>.clip_l": (3, 32)}
    assert all((state[name] != first.state[name]).any() for name in state)
    (path,) = form.write(tmp_path, SDXL, {"trigger": ComponentAdapter(first.adapter, (), state)}, lambda: load(base))
    assert path.name == "sks.safetensors" and load_file(path).keys() == {"clip_l", "clip_g"}
    assert form.find_files(tmp_path) == (path,) and formats()["diffusers"].find_files(path) is None
    pipeline, vectors = theirs.pipeline, load_file(path)
    pipeline.load_textual_inversion(vectors["clip_l"], token="<sks>", tokenizer=pipeline.tokenizer,
                                    text_encoder=pipeline.text_encoder)
    pipeline.load_textual_inversion(vectors["clip_g"], token="<sks>", tokenizer=pipeline.tokenizer_2,
                                    text_encoder=pipeline.text_encoder_2)
    ours_read = load(base)
    form.read(tmp_path, ours_read, ("trigger",))
    with torch.no_grad():
        expected, before = model.encode_prompts([PROMPT])[0], load(base).encode_prompts([PROMPT])[0]
        found = pipeline.encode_prompt(PROMPT, device="cpu", num_images_per_prompt=1)
        again = ours_read.encode_prompts([PROMPT])[0]
    for name, tensor in (("hidden", found[0][0]), ("pooled", found[2][0])):
        assert torch.equal(expected[name], tensor) and torch.equal(expected[name], again[name])
        assert (expected[name] - before[name]).abs().max() > 1e-3
    written = formats()["merged"].write(tmp_path, SDXL, {"trigger": ComponentAdapter(first.adapter, (), state)},
                                        lambda: load(base))
    with torch.no_grad():
        merged = load(tmp_path / "merged").encode_prompts([PROMPT])[0]
    assert written and all(torch.equal(expected[name], merged[name]) for name in expected)
    loaded = form.loaded_weights(ours_read.module("trigger"), state)
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_word_of_another_kind_of_base_is_refused(base: Path, tmp_path: Path) -> None:
    word = ComponentAdapter(Embedding(token="<sks>", initializer="dog"), (), {"<sks>": torch.ones(1, 32)})
    formats()["embedding"].write(tmp_path, SD, {"trigger": word}, lambda: load(base))
    with pytest.raises(RecipeError, match="is not a learned word for"):
        formats()["embedding"].read(tmp_path, load(base), ("trigger",))


@pytest.mark.parametrize("component", ["text_encoder", "text_encoder_2"])
def test_a_batch_of_dropped_prompts_gives_a_text_encoder_no_gradient_and_no_error(base: Path, component: str) -> None:
    model = load(base)
    put_lora(model, component)
    trainer = trained(model, (component,), ("a dog", ""))
    assert len(trainer.history) == 3 and trainer.history[1].grad_norm == 0 < trainer.history[0].grad_norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("component", "frozen"), [
    ("text_encoder", "text_encoder_2"), ("text_encoder_2", "text_encoder")])
def test_an_encoder_beside_one_that_learns_is_not_loaded_and_changes_no_bit(base: Path, component: str, frozen: str,
                                                                            dtype: torch.dtype) -> None:
    prompts = ("a dog", "", "a photo of a dog")
    assert frozen_encoders(SDXL, ("denoiser", component)) == (frozen,)
    known = load(base, dtype).encoder_outputs(prompts, (frozen,))
    states: list[dict[str, torch.Tensor]] = []
    for stored in (NOTHING_KNOWN, known):
        model = load(base, dtype)
        put_lora(model, component)
        states.append(trained(model, (component,), prompts, stored).adapter_states()[component])
        assert (frozen in model.weights.loaded) is (stored is NOTHING_KNOWN)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_new_word_is_read_by_both_encoders() -> None:
    assert frozen_encoders(SDXL, ("denoiser", "trigger", "text_encoder")) == ()
    assert frozen_encoders(SDXL, ("denoiser",)) == SDXL.text_encoders
    assert frozen_encoders(SDXL, ("text_encoder", "text_encoder_2")) == ()
