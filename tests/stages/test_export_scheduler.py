"""Is an adapter sampled as it was taught, in before_after.png and by who loads it elsewhere?"""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image

from dbrun.adapters.adapter_io import read_adapters
from dbrun.formats.scheduler import write_scheduler
from dbrun.models.base import families
from dbrun.models.scheduling import scheduler_changes
from dbrun.safetensors_header import read_provenance

TAUGHT = {"prediction": "v_prediction", "zero_terminal_snr": True}
CONFIG = "scheduler/scheduler_config.json"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def benches(shared_bench):
    """The shared bench after the training of an adapter, and how to export it under an objective."""
    chosen = shared_bench.recipe(export=("diffusers",), prior=None, train={"steps": 1, "learning_rate": 0.1},
                                 samples={"prompts": ("a photo of sks dog",), "steps": 4})
    shared_bench.through("train", chosen)

    @cache
    def export(**objective):
        of = type(chosen.objective).model_validate(objective)
        return shared_bench.run("export", chosen.model_copy(update={"objective": of})).path

    return shared_bench, export


def rows(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The pictures of the two rows, 256 pixels wide."""
    page = np.asarray(Image.open(folder / "before_after.png").convert("RGB"), int)
    top = page.shape[0] - 24 - 2 * 256 - 12
    return page[top:top + 256, -24 - 256:-24], page[top + 268:top + 524, -24 - 256:-24]


def test_as_the_base_there_is_no_scheduler(benches) -> None:
    assert not (benches[1]() / "scheduler").exists()
    assert not (benches[1](prediction="epsilon") / "scheduler").exists()


def test_the_scheduler_beside_the_adapter_says_what_was_taught(benches) -> None:
    out = benches[1](**TAUGHT)
    scheduler = DPMSolverMultistepScheduler.from_pretrained(out, subfolder="scheduler")
    assert scheduler.config.prediction_type == "v_prediction" and scheduler.config.rescale_betas_zero_snr
    scheduler.set_timesteps(25)
    assert scheduler.timesteps[0] == 999, "where nothing is left of the picture, sampling begins"
    assert "_diffusers_version" not in json.loads((out / CONFIG).read_text())
    assert any("sample with the scheduler in scheduler/" in getattr(e, "text", "") for e in benches[0].events)


def test_only_the_adapters_row_is_drawn_as_taught(benches) -> None:
    plain, taught, other = (rows(benches[1](**o)) for o in ({}, {"prediction": "v_prediction"}, TAUGHT))
    assert np.array_equal(plain[0], taught[0]) and np.array_equal(plain[0], other[0])
    for one, two in ((plain, taught), (taught, other)):
        assert abs(one[1] - two[1]).mean() > 1


def test_who_loads_adapter_and_scheduler_sees_the_picture_of_the_sheet(benches) -> None:
    bench, export = benches
    out = export(**TAUGHT)
    pipeline = StableDiffusionPipeline.from_pretrained(bench.base, local_files_only=True)
    pipeline.load_lora_weights(str(out))
    pipeline.scheduler = DPMSolverMultistepScheduler.from_pretrained(out, subfolder="scheduler")
    picture = pipeline("a photo of sks dog", num_inference_steps=4, guidance_scale=2.0, width=32, height=32,
                       generator=torch.Generator().manual_seed(0)).images[0]
    family = families()["sd"]
    model = family.load(bench.base, device=CPU, dtype=torch.float32)
    for name, attached in read_adapters(bench.artifacts["train"].path).items():
        attached.attach_to(model.module(name))
    changes = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    ours = model.with_scheduler_changes(changes).generate("a photo of sks dog", seed=0, steps=4,
                           guidance=2.0, resolution=32)
    assert abs(np.asarray(picture, int) - np.asarray(ours, int)).max() <= 1
    shown = np.asarray(Image.fromarray(rows(out)[1].astype(np.uint8)).resize((32, 32), Image.Resampling.NEAREST), int)
    assert abs(shown - np.asarray(ours, int)).mean() < 8


def test_the_file_tells_its_objective(benches) -> None:
    name = "pytorch_lora_weights.safetensors"
    assert read_provenance(benches[1](**TAUGHT) / name)["recipe"]["objective"] == TAUGHT
    assert "objective" not in read_provenance(benches[1]() / name)["recipe"]


def test_a_learned_variance_is_fixed(tiny_base, tmp_path) -> None:
    """The adapter is trained on the mean alone: the base's scheduler wants the learned variance, ours does not."""
    base = tmp_path / "learned"
    shutil.copytree(tiny_base, base)
    DDPMScheduler(variance_type="learned_range").save_pretrained(base / "scheduler")
    family = families()["sd"]
    model = family.load(base, device=CPU, dtype=torch.float32)
    changes = scheduler_changes(family.scheduler_config(base), None, False)
    path = write_scheduler(tmp_path, model, changes)
    assert path == tmp_path / CONFIG and json.loads(path.read_text())["variance_type"] == "fixed_small"
