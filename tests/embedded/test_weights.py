"""Is the shipped model complete, small, what its manifest says, and does diffusers draw with it?"""

import json
import subprocess
import sys

import pytest
import torch

from dbrun.embedded import weights_path

MANIFEST = weights_path() / "manifest.json"
exported = pytest.mark.skipif(not MANIFEST.exists(), reason="the embedded base model is not exported yet")


@exported
def test_the_manifest_names_every_file_with_its_digest() -> None:
    from dbrun.embedded.making.export import file_digest

    listed = json.loads(MANIFEST.read_text())["files"]
    there = {path.relative_to(weights_path()).as_posix() for path in weights_path().rglob("*") if path.is_file()}
    assert set(listed) == there - {"manifest.json"}
    assert all(file_digest(weights_path() / name) == digest for name, digest in listed.items())


@exported
def test_the_manifest_says_how_it_was_made() -> None:
    manifest = json.loads(MANIFEST.read_text())
    assert manifest["command"].startswith("python -m dbrun.embedded.")
    assert manifest["licence"] == "Apache-2.0"
    assert manifest["figures"]["images"] > 0


@exported
def test_it_is_at_most_12_megabytes_of_half_precision_safetensors() -> None:
    from safetensors.torch import load_file

    files = [path for path in weights_path().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}
    for path in files:
        if path.suffix == ".safetensors":
            floats = {tensor.dtype for tensor in load_file(path).values() if tensor.is_floating_point()}
            assert floats == {torch.float16}


@exported
def test_diffusers_draws_with_it() -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(weights_path(), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline("a photo of a dog", num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert made.images[0].size == (64, 64)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_asking_where_things_lie_imports_nothing_heavy() -> None:
    code = (
        "import sys; from dbrun.embedded import subject_path, weights_path; subject_path('sks_dog');"
        "print([name for name in ('torch', 'numpy', 'PIL', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.slow
@exported
def test_its_pictures_show_what_was_asked_for(judge) -> None:
    from diffusers import StableDiffusionPipeline
    from judge import agreement, drawing_agreement

    sight = drawing_agreement(judge)
    assert min(sight.values()) > 0.95, sight
    pipeline = StableDiffusionPipeline.from_pretrained(weights_path(), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    scores = agreement(judge, pipeline)
    assert scores["class"] >= 0.95 and scores["colour"] >= 0.97 and scores["place"] >= 0.97, scores
