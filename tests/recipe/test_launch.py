"""Is a number of processes that cannot share the work refused with the way out, before anything runs?"""

from collections.abc import Callable
from pathlib import Path

import pytest

from dbrun.errors import RecipeError
from dbrun.recipe.load import load_recipe
from dbrun.recipe.schema.launch import Launch

RECIPE = """\
schema: dbrun/v1
name: x
base: {path: embedded}
subject: {images: pictures, instance_prompt: a photo of sks dog}
adapt: {denoiser: {type: lora}}
"""


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., object]:
    (tmp_path / "r.yaml").write_text(RECIPE)
    return lambda *words: load_recipe(tmp_path / "r.yaml", words).recipe.launch


def test_processes_divide_the_micro_batches_of_a_step(read: Callable[..., object]) -> None:
    for processes in (1, 2, 4):
        assert read(f"launch.processes={processes}", "train.accumulation=4")
    with pytest.raises(RecipeError, match=r"launch.processes.*cannot be split evenly over 3 processes") as refused:
        read("launch.processes=3", "train.accumulation=4")
    assert "train.accumulation: 6" in str(refused.value)


def test_a_step_of_one_micro_batch_gets_one_for_each_process(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    alone = load_recipe(tmp_path / "r.yaml", ["train={accumulation: 3, scale_lr: true}"]).recipe
    shared = load_recipe(tmp_path / "r.yaml", ["launch.processes=3", "train.scale_lr=true"]).recipe
    assert shared.train == alone.train and shared.train.learning_rate_scale == 3
    assert alone.shared_by(3) is alone and load_recipe(tmp_path / "r.yaml").recipe.train.accumulation == 1


def test_a_fast_sum_names_its_processes(read: Callable[..., Launch]) -> None:
    assert read("launch={processes: 2, reduce: fast}")
    numbers = [read(f"launch={{processes: {n}, reduce: {how}}}", "train.accumulation=4").reduced_over
               for how in ("exact", "fast") for n in (2, 4)]
    assert numbers == [1, 1, 2, 4], "what the cache key of `train` holds"
    with pytest.raises(RecipeError, match=r"launch.reduce.*one process has nothing to exchange"):
        read("launch.reduce=fast")


def test_machines_divide_the_processes_and_a_mac_has_one_gpu(read: Callable[..., object]) -> None:
    assert read("launch={processes: 4, machines: 2}", "train.accumulation=4")
    with pytest.raises(RecipeError, match="cannot be spread evenly over 3 machines"):
        read("launch={processes: 4, machines: 3}", "train.accumulation=4")
    with pytest.raises(RecipeError, match="a Mac has one GPU"):
        read("launch.processes=2", "train.accumulation=2", "device=mps")


def test_what_other_programs_call_it_is_understood(read: Callable[..., object]) -> None:
    with pytest.raises(RecipeError, match=r"here it is called 'launch.processes'"):
        read("num_processes=2")
