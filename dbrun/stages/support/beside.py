"""What goes on beside a training, for people to see, without any result depending on it?"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.models.base import Family, Loaded
from dbrun.stages.base import Job
from dbrun.stages.support.sample_spec import Columns

if TYPE_CHECKING:
    from PIL.Image import Image

    from dbrun.training.loop import Metrics, Trainer

METRICS, SAMPLES = "metrics.jsonl", "samples"
PLAIN = (bool, int, float, str)


class Beside:
    """Writes down how a training goes, draws its samples, and tells trackers.

    images: pictures that a step shows. All of it lies in the run's folder; sample pictures also in the work folder, so
    that a run that goes on has those of the run before. Nothing that goes wrong here ends a training.
    """

    def __init__(self, job: Job[Any], family: Family, loaded: Loaded, trainer: Trainer, images: int) -> None:
        from dbrun.training.trackers import Trackers

        self.job, self.family, self.loaded, self.trainer, self.images = job, family, loaded, trainer, images
        self.folder = None if job.ranks.rank else job.upkeep.record
        names = job.upkeep.trackers if self.folder else ()
        self.trackers = Trackers(names, job.upkeep.name, self.folder or Path(), _scalars(job.params), job.note,
                                 self._warn)
        self._since = time.monotonic()

    def begin(self) -> None:
        """Take over what an earlier run wrote down of the steps before, and draw what it did not come to."""
        for done in self.trainer.history:
            self._write(self._numbers(done), done.step)
        self._hand_on()
        if self.trainer.history:
            self.sample()
        self._since = time.monotonic()

    def report(self, done: Metrics) -> None:
        """Tell of a step."""
        from dbrun.training.recompute import peak_mib

        seconds = max(time.monotonic() - self._since, 1e-9)
        numbers = {**self._numbers(done), "images_per_second": self.images / seconds, "memory_mib": peak_mib()}
        self.job.progress(done.step, self.job.params.steps, "steps", **numbers)
        self._write(numbers, done.step)

    def sample(self) -> None:
        """Draw pictures if it is time; what has been drawn is not drawn again. Called where a checkpoint stands."""
        asked, step = self.job.upkeep.samples, len(self.trainer.history)
        if self.folder is not None and asked is not None and step % asked.every == 0:
            place = self._kept(asked) / f"step-{step:08d}.png"
            try:
                if not place.exists():
                    self._draw(asked, place, step)
            except Exception as error:
                words = (str(error).strip() or "no message").splitlines()[0][:200]
                self._warn(f"no samples after step {step}: {type(error).__name__}: {words}")
        self._since = time.monotonic()

    def end(self) -> None:
        """Let the trackers finish."""
        self.trackers.close()

    def _draw(self, asked: Columns, place: Path, step: int) -> None:
        from dbrun.images.grid import save_png, sheet
        from dbrun.training.showing import as_shown

        pictures: list[Image] = []
        with as_shown(self.trainer):
            for column, prompt in enumerate(asked.prompts):
                if self.job.stopping():
                    return
                pictures.append(self.family.generate(
                    self.loaded, prompt, seed=asked.seed + column, steps=asked.steps, guidance=asked.guidance,
                    resolution=asked.resolution, start=self._start(asked, column)))
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{os.getpid()}.{place.name}")
        save_png(sheet(((f"step {step}", pictures),), asked.prompts), beside)
        beside.replace(place)
        self._hand_on()
        self.job.note(f"samples after step {step}: {self._shown(place)}")
        self.trackers.pictures({f"{column}: {prompt}": picture for column, (prompt, picture) in
                                enumerate(zip(asked.prompts, pictures, strict=True))}, step)

    def _start(self, asked: Columns, column: int) -> Image | None:
        if asked.starts is None:
            return None
        return asked.starts.small(column, self.job.files, asked.resolution, asked.resolution // self.family.enlarges)

    def _kept(self, asked: Columns) -> Path:
        return self.job.work / SAMPLES / asked.name

    def _shown(self, place: Path) -> Path:
        assert self.folder is not None
        return self.folder / SAMPLES / place.name

    def _hand_on(self) -> None:
        """Copy into the run's folder what was drawn up to here."""
        asked = self.job.upkeep.samples
        if self.folder is None or asked is None or not self._kept(asked).is_dir():
            return
        try:
            (self.folder / SAMPLES).mkdir(exist_ok=True)
            for place in sorted(self._kept(asked).glob("step-*.png")):
                ahead = int(place.stem.removeprefix("step-")) > len(self.trainer.history)
                if not ahead and not self._shown(place).exists():
                    shutil.copyfile(place, self._shown(place))
        except OSError as error:
            self._warn(f"the samples stay in {self._kept(asked)}: {error.strerror}")

    def _numbers(self, done: Metrics) -> dict[str, float]:
        from dbrun.training.loop import finite

        numbers = {name: value for name, value in finite(done).items() if name != "step" and value is not None}
        return {"epoch": done.step / self.job.upkeep.steps_per_epoch, **numbers}

    def _write(self, numbers: Mapping[str, float], step: int) -> None:
        self.trackers.log(numbers, step)
        if self.folder is None:
            return
        try:
            with (self.folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **numbers}) + "\n")
        except OSError:
            return

    def _warn(self, text: str) -> None:
        self.job.note(text, level="warning")


def _scalars(params: Any) -> dict[str, float | int | str | bool | None]:
    """What the trackers are told of the settings."""
    found = {field.name: getattr(params, field.name) for field in fields(params)}
    return {name: value if isinstance(value, PLAIN) else str(value) for name, value in found.items()}
