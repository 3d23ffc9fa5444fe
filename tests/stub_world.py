"""Stages without torch that behave like the real ones, and a recipe for them; also a program that runs them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dbrun.models.base import Sampling
from dbrun.plan.selection import Selection
from dbrun.recipe.checks.exports import export_formats
from dbrun.recipe.load import load_recipe
from dbrun.recipe.schema.adapt import Adapt
from dbrun.recipe.schema.model import Recipe
from dbrun.resolve.sources import ResolvedSources
from dbrun.run.runner import execute
from dbrun.run.signals import stop_signals
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.sources import BaseSource, Numerics, Picture, Sources
from dbrun.store.store import Store
from dbrun.workload import Workload

RECIPE = """
schema: dbrun/v1
name: stub
base: {type: sd, path: embedded}
subject: {images: pictures, instance_prompt: a photo of sks dog, class_prompt: a photo of a dog}
prior: {count: 4}
images: {resolution: 64}
adapt: {denoiser: {type: lora, rank: 4}}
train: {steps: 6, checkpoint_every: 2}
device: cpu
"""


def sha(*parts: object) -> str:
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()


class Counted(Stage[Any]):
    """Writes its name into $STUB_RUNS when it runs; dawdles for $STUB_PAUSE seconds."""

    device_dependent: ClassVar[bool] = False

    def run(self, job: StageContext[Any]) -> None:
        if log := os.environ.get("STUB_RUNS"):
            with Path(log).open("a") as file:
                file.write(f"{self.NAME}\n")
        time.sleep(float(os.environ.get("STUB_PAUSE", "0")))
        job.check_interrupt()
        self.work(job)

    def work(self, job: StageContext[Any]) -> None:
        (job.out / "result").write_text(sha(self.NAME, job.params, sorted(a.digest for a in job.inputs.values())))


@dataclass(frozen=True)
class LoadParams:
    WORDS: ClassVar = {"identity": "base"}
    identity: str


class Load(Counted):
    NAME = "load"

    def params(self, recipe: Recipe, sources: Sources) -> LoadParams:
        return LoadParams(sources.base.identity)


@dataclass(frozen=True)
class AdaptParams:
    adapt: Adapt


class Attach(Counted):
    NAME = "adapt"
    needs = ("load",)

    def params(self, recipe: Recipe, sources: Sources) -> AdaptParams:
        return AdaptParams(recipe.adapt)


@dataclass(frozen=True)
class PriorParams:
    WORDS: ClassVar = {"count": "prior.count", "prompt": "subject.class_prompt"}
    count: int
    prompt: str


class Priors(Counted):
    NAME = "generate-priors"
    needs = ("load",)
    device_dependent = True

    def applies_to(self, recipe: Recipe) -> bool:
        return recipe.prior is not None and recipe.prior.generated_count > 0

    def params(self, recipe: Recipe, sources: Sources) -> PriorParams:
        assert recipe.prior and recipe.subject.class_prompt
        return PriorParams(recipe.prior.count, recipe.subject.class_prompt)

    def extendable_params(self, params: PriorParams) -> tuple[str, ...]:
        return ("count",)

    def work(self, job: StageContext[Any]) -> None:
        for i in range(job.params.count):
            job.check_interrupt()

            def make(folder: Path, i: int = i) -> None:
                note_item("prior")
                (folder / "image").write_text(sha("prior", job.params.prompt, i))

            item = job.items.get({"prompt": job.params.prompt, "index": i}, make)
            (job.out / f"{i:03}").write_bytes((item / "image").read_bytes())


@dataclass(frozen=True)
class PreprocessParams:
    pictures: tuple[Picture, ...]


class Preprocess(Counted):
    NAME = "preprocess"
    needs = ("load", "generate-priors")
    device_dependent = True

    def item_keys(self, params: PreprocessParams, inputs: Mapping[str, str],
                  numerics: Numerics) -> Sequence[Mapping[str, object]]:
        return [{"digest": picture.digest} for picture in params.pictures]

    def params(self, recipe: Recipe, sources: Sources) -> PreprocessParams:
        return PreprocessParams(sources.pictures)

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        return Workload(len(sources.pictures))

    def work(self, job: StageContext[Any]) -> None:
        for picture in job.params.pictures:
            job.check_interrupt()

            def make(folder: Path, picture: Picture = picture) -> None:
                note_item("picture")
                (folder / "x").write_text(sha(job.files[picture.digest].read_bytes(), picture.prompt))

            (job.out / picture.digest).write_bytes((job.items.get({"digest": picture.digest}, make) / "x").read_bytes())
        priors = job.inputs.get("generate-priors")
        (job.out / "priors").write_text(priors.digest if priors else "none")


@dataclass(frozen=True)
class TrainParams:
    steps: int
    rate: float


class Train(Counted):
    NAME = "train"
    needs = ("load", "adapt", "preprocess")
    device_dependent = True

    def params(self, recipe: Recipe, sources: Sources) -> TrainParams:
        return TrainParams(recipe.train.steps, recipe.train.learning_rate)

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        micro = recipe.train.batch_size * recipe.images.resolution**2
        return Workload(recipe.train.steps or 0, micro, (micro,), {"adapter": recipe.images.resolution},
                        (recipe.train.precision,))

    def extendable_params(self, params: TrainParams) -> tuple[str, ...]:
        return ("steps",)

    def work(self, job: StageContext[Any]) -> None:
        step, state = self.newest(job) or (0, sha(job.params.rate, sorted(a.digest for a in job.inputs.values())))
        while step < job.params.steps:
            state, step = sha(state), step + 1
            note_item("step")
            job.progress(step, job.params.steps, "steps")
            if step % job.runtime.checkpoint_every == 0 or step == job.params.steps:
                beside = job.work / "checkpoints" / f".{step}-{os.getpid()}"
                beside.parent.mkdir(exist_ok=True)
                beside.write_text(state)
                beside.rename(beside.parent / f"step-{step:08}.{sha(state)}.safetensors")
            job.check_interrupt()
        (job.out / "adapter").write_text(state)

    def newest(self, job: StageContext[Any]) -> tuple[int, str] | None:
        """The furthest whole checkpoint of at most so many steps."""
        for path in sorted((job.work / "checkpoints").glob("step-*"), reverse=True):
            step, state = int(path.name[5:13]), path.read_text(errors="replace")
            if step <= job.params.steps and sha(state) == path.name.split(".")[1]:
                return step, state
        return None


@dataclass(frozen=True)
class ExportParams:
    formats: tuple[str, ...]


class Export(Counted):
    NAME = "export"
    delivers = True
    needs = ("load", "train")

    def params(self, recipe: Recipe, sources: Sources) -> ExportParams:
        return ExportParams(export_formats(recipe))

    def work(self, job: StageContext[Any]) -> None:
        weights = (job.inputs["train"].path / "adapter").read_text()
        for name in job.params.formats:
            (job.out / name).mkdir()
            (job.out / name / "weights").write_text(f"{name} {weights}")


def note_item(kind: str) -> None:
    if log := os.environ.get("STUB_RUNS"):
        with Path(log).open("a") as file:
            file.write(f"  {kind}\n")


def stub_stages() -> dict[str, Stage[Any]]:
    return {c.NAME: c() for c in (Attach, Export, Priors, Load, Preprocess, Train)}


def resolved(home: Path, base: str = "base", folder: Path | None = None) -> ResolvedSources:
    files = {hashlib.sha256(p.read_bytes()).hexdigest(): p for p in sorted((home / "pictures").iterdir())}
    source = BaseSource(f"files:{sha(base)}", "sd", folder or home, None, {}, Sampling(1, 1.0))
    return ResolvedSources(Sources(source, tuple(Picture(d, "a photo of sks dog") for d in sorted(files))), files)


def make_home(home: Path, pictures: int = 3) -> Path:
    (home / "pictures").mkdir(parents=True)
    for i in range(pictures):
        (home / "pictures" / f"{i}.png").write_text(f"picture {i}")
    (home / "r.yaml").write_text(RECIPE)
    return home


def go(home: Path, *overrides: str, select: Selection = Selection(), emit: Any = None, base: str = "base",
       stages: Any = None, render_report: Any = None, remote: Any = None) -> Any:
    loaded = load_recipe(home / "r.yaml", overrides)
    with stop_signals() as cancel:
        return execute(loaded, resolved(home, base), Store(home / "store", remote), select,
                       emit=emit or (lambda event: None), overrides=overrides, outputs=home / "outputs",
                       stages=stages or stub_stages(), cancel=cancel, render_report=render_report)


if __name__ == "__main__":
    from dbrun.errors import DbrunError

    try:
        print(json.dumps(go(Path(sys.argv[1]), *sys.argv[2:]).ran))
    except DbrunError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
