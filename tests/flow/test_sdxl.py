"""Does SDXL go the whole way with three adapters, and is each export read by a fresh pipeline as it was trained?"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from projects import RECIPE, Project, lay_out

FORMATS = "diffusers, peft, kohya, component, merged"
LORA = "{type: lora, rank: 2, alpha: 4, targets: all}"
SDXL = RECIPE.replace("type: sd", "type: sdxl").replace("export: [diffusers, peft]", f"export: [{FORMATS}]").replace(
    "targets: all}", "targets: all}\n  text_encoder: {type: lora, rank: 2, alpha: 4, learning_rate: 3.0e-3}\n"
    "  text_encoder_2: {type: lora, rank: 3, alpha: 3, targets: all, learning_rate: 5.0e-3}").replace(
    "train: {steps: 6", "train: {steps: 4")
# batches of every kind within few steps: class images, and prompts that are dropped
DROPPED = ("subject.captions={type: sidecar, dropout: 0.5}",)


def laid_out(folder: Path) -> Project:
    from dbrun.models.base import families

    project = lay_out(folder)
    shutil.rmtree(folder / "base")
    families()["sdxl"].write_tiny_base(folder / "base")
    (folder / "tiny.yaml").write_text(SDXL)
    return project


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = laid_out(tmp_path_factory.mktemp("sdxl"))
    project.dbrun("run", "tiny.yaml")
    return project


def artifact(project: Project, stage: str) -> Path:
    from dbrun.store.store import Store

    store = Store(project.folder / ".dbrun")
    (trace,) = store.traces.recent(stage, 9)
    return store.objects.path(trace.digest)


def drawn(folder: Path, adapters: Path | None = None, weight_name: str | None = None) -> torch.Tensor:
    """Pixels that diffusers draws with a prompt and the empty negative one."""
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    if adapters is not None:
        pipeline.load_lora_weights(adapters, weight_name=weight_name)
    return torch.from_numpy(pipeline("a photo of sks dog", num_inference_steps=2, output_type="np",
                                     generator=torch.Generator().manual_seed(0)).images[0])


@pytest.mark.slow
def test_every_export_draws_the_same_picture_in_a_fresh_pipeline(done: Project) -> None:
    home, base = done.folder / "outputs" / "tiny", done.folder / "base"
    merged = drawn(home / "merged")
    assert (merged - drawn(base)).abs().max() > 1e-2
    for name in ("pytorch_lora_weights.safetensors", "tiny.safetensors"):
        assert (merged - drawn(base, home, name)).abs().max() < 2e-5, name
    for part in ("denoiser", "text_encoder", "text_encoder_2"):
        assert (home / "peft" / part / "adapter_config.json").is_file()
    for part in ("unet", "text_encoder", "text_encoder_2"):
        assert (home / "component" / part / "config.json").is_file()


def test_each_crop_keeps_its_sizes(done: Project) -> None:
    from safetensors.torch import load_file

    found = load_file(artifact(done, "preprocess") / "time_ids.safetensors")
    # 48 × 40 pixels made 38 × 32, of which the middle is shown; class images are as large as they were drawn
    sizes = {name: tensor.tolist() for name, tensor in found.items()}
    assert sizes == {**{f"instance.{i:05d}": [40, 48, 0, 3, 32, 32] for i in range(3)},
                     **{f"class.{i:05d}": [32, 32, 0, 0, 32, 32] for i in range(3)}}


def test_every_component_learns_at_its_own_rate(done: Project) -> None:
    from safetensors.torch import load_file

    start, end = artifact(done, "adapt"), artifact(done, "train")
    for component in ("denoiser", "text_encoder", "text_encoder_2"):
        before, after = (load_file(home / f"{component}.safetensors") for home in (start, end))
        assert any((before[name] != after[name]).any() for name in before), component
    line = json.loads((end / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["learning_rate.text_encoder"] < line["learning_rate.text_encoder_2"] < line["learning_rate.denoiser"]


def test_what_an_encoder_gives_that_does_not_learn_is_stored(done: Project) -> None:
    """The last that uses the project: it adds results to its store."""
    from safetensors.torch import load_file

    from dbrun.store.store import Store

    alone = "adapt.text_encoder_2=null"
    done.dbrun("run", "tiny.yaml", alone, "samples.every=4", "--until", "train")
    plan = json.loads(done.dbrun("plan", "tiny.yaml", alone, "--json").stdout)
    digest = next(stage["digest"] for stage in plan["stages"] if stage["name"] == "preprocess")
    found = load_file(Store(done.folder / ".dbrun").objects.path(digest) / "encoder_outputs.safetensors")
    assert found.keys() == {f"{number:05d}.text_encoder_2.{name}" for number in range(2)
                            for name in ("hidden", "pooled")}


@pytest.mark.slow
def test_a_training_that_was_cut_off_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole, parts = laid_out(tmp_path / "whole"), laid_out(tmp_path / "parts")
    words = ("run", "tiny.yaml", *DROPPED, "export=[diffusers]", "samples.prompts=[a dog]")
    parts.dbrun(*words, "train.steps=2", "--until", "train")
    for project in (whole, parts):
        project.dbrun(*words)
    assert parts.exported() == whole.exported()


@pytest.mark.slow
def test_two_processes_end_in_the_bytes_of_one(tmp_path: Path) -> None:
    alone, shared = laid_out(tmp_path / "alone"), laid_out(tmp_path / "shared")
    words = (*DROPPED, "train.accumulation=2", "images.buckets={}", "subject.class_prompt=a dog")
    alone.dbrun("run", "tiny.yaml", *words)
    shared.dbrun("run", "tiny.yaml", *words, "launch.processes=2")
    assert shared.exported() == alone.exported()
