"""Does each stage say what its time, memory and disk grow with?"""

from __future__ import annotations

from pathlib import Path

import pytest

from dbrun.recipe.load import load_recipe
from dbrun.recipe.new import StarterRequest, starter_recipe
from dbrun.resolve.sources import resolve_sources
from dbrun.stages.base import stages
from dbrun.store.store import Store
from dbrun.workload import Workload

NO_PRIOR = "prior=null & subject.class_prompt=null"


@pytest.fixture
def dog(tmp_path: Path) -> Path:
    text = starter_recipe(StarterRequest("dog")).replace("count: 96", "count: 40")
    (tmp_path / "dog.yaml").write_text(text)
    return tmp_path / "dog.yaml"


def amounts(dog: Path, stage: str, *overrides: str) -> Workload:
    loaded = load_recipe(dog, [word for words in overrides for word in words.split(" & ")])
    return stages()[stage].workload(loaded.recipe, resolve_sources(loaded, Store(dog.parent / "store")).sources)


def ratios(dog: Path, stage: str, change: str) -> tuple[float, tuple[float, ...], set[float]]:
    """How many times the time, each memory and each disk, after a change that leaves the kind of work as it is."""
    was, now = amounts(dog, stage), amounts(dog, stage, change)
    assert was.like == now.like
    return (now.units * now.each / (was.units * was.each),
            tuple(round(new / old, 1) for new, old in zip(now.memory, was.memory, strict=True)),
            {round(now.disk[end] / was.disk[end], 1) for end in was.disk})


@pytest.mark.parametrize(("stage", "change", "time", "memory", "disk"), [
    ("train", "train.steps=900", 3, (1, 1), {1, 3}), ("train", "images.resolution=128", 4, (4, 1), {1}),
    ("train", "train.batch_size=10", 2, (2, 1), {1}), ("train", "train.accumulation=3", 3, (1, 1), {1}),
    ("train", "adapt.denoiser.rank=32", 1, (1, 2), {1, 2}), ("train", NO_PRIOR, 0.5, (0.5, 1), {1}),
    ("generate-priors", "prior.count=80", 2, (1,), {2}), ("generate-priors", "prior.steps=30", 3, (1,), {1}),
    ("generate-priors", "images.resolution=128", 4, (4,), {4}),
    ("preprocess", "images.resolution=128", 4, (4,), {1, 4}),
    ("adapt", "adapt.denoiser.rank=32", 1, (2,), {2}), ("adapt", "images.resolution=128", 1, (1,), {1}),
    ("export", "images.resolution=128", 4, (4, 1), {1, 4}), ("export", "samples.steps=30", 3, (1, 1), {1}),
    ("export", "samples.prompts=[a dog]", 1 / 7, (1, 1), {1, 0.1})])
def test_each_grows_with_what_it_is_made_of(dog: Path, stage: str, change: str, time: float,
                                            memory: tuple[float, ...], disk: set[float]) -> None:
    assert ratios(dog, stage, change) == (pytest.approx(time), memory, disk)


def test_more_pictures_and_prompts_are_more_to_encode(dog: Path) -> None:
    was, more = amounts(dog, "preprocess"), amounts(dog, "preprocess", "prior.count=80")
    assert (was.units, more.units) == (5 + 40 + 6, 5 + 80 + 6)
    assert amounts(dog, "preprocess", "images.flip=true").units == 2 * (5 + 40) + 6


@pytest.mark.parametrize(("stage", "change"), [
    ("train", "train.precision=bf16"), ("train", "train.gradient_checkpointing=true"),
    ("train", "train.optimizer={type: adafactor}"),
    ("train", "adapt.denoiser={type: oft, targets: linear} & export=[peft]"),
    ("train", "adapt.text_encoder={type: lora, rank: 4, targets: all}"), ("train", "samples.every=10"),
    ("train", "train.held_out={}"), ("adapt", "adapt.denoiser.targets=attention"), ("export", "export=[peft]"),
    ("generate-priors", "prior.guidance=1.0")])
def test_what_makes_it_another_kind_of_work_is_named(dog: Path, stage: str, change: str) -> None:
    assert amounts(dog, stage).like != amounts(dog, stage, change).like


def test_what_changes_nothing_of_that_is_not(dog: Path) -> None:
    for change in ("train.learning_rate=5e-5", "seed=3", "adapt.denoiser.alpha=2", "subject.instance_prompt=sks"):
        assert amounts(dog, "train") == amounts(dog, "train", change)
