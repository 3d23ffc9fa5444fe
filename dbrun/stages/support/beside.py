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

from dbrun.models.base import Model
from dbrun.stages.base import StageContext
from dbrun.stages.support.sample_spec import SampleSpec

if TYPE_CHECKING:
    from PIL.Image import Image

    from dbrun.training.loop import Metrics, Trainer

METRICS_FILE, SAMPLES_FOLDER = "metrics.jsonl", "samples"
SCALAR_TYPES = (bool, int, float, str)


class Monitor:
    """Writes down how a training goes, draws its samples, and tells trackers.

    images: pictures that a step shows. All of it lies in the run's folder; sample pictures also in the work folder, so
    that a run that goes on has those of the run before. Nothing that goes wrong here ends a training.
    """

    def __init__(self, ctx: StageContext[Any], model: Model, trainer: Trainer, images: int) -> None:
        from dbrun.training.trackers import Trackers

        self.ctx, self.model, self.trainer, self.images_per_step = ctx, model, trainer, images
        self.folder = None if ctx.process_group.rank else ctx.runtime.run_folder
        names = ctx.runtime.trackers if self.folder else ()
        self.trackers = Trackers(names, ctx.runtime.name, self.folder or Path(), _scalars(ctx.params), ctx.note,
                                 self._warn)
        self._step_started = time.monotonic()

    def start(self) -> None:
        """Take over what an earlier run wrote down of the steps before, and draw what it did not come to."""
        for done in self.trainer.history:
            self._log(self._step_metrics(done), done.step)
        self._copy_samples()
        if self.trainer.history:
            self.draw_samples()
        self._step_started = time.monotonic()

    def log_step(self, done: Metrics) -> None:
        """Tell of a step."""
        from dbrun.training.recompute import peak_mib

        seconds = max(time.monotonic() - self._step_started, 1e-9)
        numbers = {**self._step_metrics(done), "images_per_second": self.images_per_step / seconds,
                   "memory_mib": peak_mib()}
        self.ctx.progress(done.step, self.ctx.params.steps, "steps", **numbers)
        self._log(numbers, done.step)

    def draw_samples(self) -> None:
        """Draw pictures if it is time; what has been drawn is not drawn again. Called where a checkpoint stands."""
        asked, step = self.ctx.runtime.samples, len(self.trainer.history)
        if self.folder is not None and asked is not None and step % asked.every == 0:
            place = self._sample_folder(asked) / f"step-{step:08d}.png"
            try:
                if not place.exists():
                    self._draw(asked, place, step)
            except Exception as error:
                words = (str(error).strip() or "no message").splitlines()[0][:200]
                self._warn(f"no samples after step {step}: {type(error).__name__}: {words}")
        self._step_started = time.monotonic()

    def close(self) -> None:
        """Let the trackers finish."""
        self.trackers.close()

    def _draw(self, asked: SampleSpec, place: Path, step: int) -> None:
        from dbrun.images.grid import draw_grid, save_png
        from dbrun.training.showing import sampling_mode

        pictures: list[Image] = []
        with sampling_mode(self.trainer):
            for column, prompt in enumerate(asked.prompts):
                if self.ctx.stop_signal():
                    return
                pictures.append(self.model.generate(
                    prompt, seed=asked.seed + column, steps=asked.steps, guidance=asked.guidance,
                    resolution=asked.resolution, start_image=self._lowres_input(asked, column)))
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{os.getpid()}.{place.name}")
        save_png(draw_grid(((f"step {step}", pictures),), asked.prompts), beside)
        beside.replace(place)
        self._copy_samples()
        self.ctx.note(f"samples after step {step}: {self._run_copy(place)}")
        self.trackers.log_images({f"{column}: {prompt}": picture for column, (prompt, picture) in
                                  enumerate(zip(asked.prompts, pictures, strict=True))}, step)

    def _lowres_input(self, asked: SampleSpec, column: int) -> Image | None:
        if asked.starts is None:
            return None
        return asked.starts.start_image(column, self.ctx.files, asked.resolution, self.model.family)

    def _sample_folder(self, asked: SampleSpec) -> Path:
        return self.ctx.work / SAMPLES_FOLDER / asked.fingerprint

    def _run_copy(self, place: Path) -> Path:
        assert self.folder is not None
        return self.folder / SAMPLES_FOLDER / place.name

    def _copy_samples(self) -> None:
        """Copy into the run's folder what was drawn up to here."""
        asked = self.ctx.runtime.samples
        if self.folder is None or asked is None or not self._sample_folder(asked).is_dir():
            return
        try:
            (self.folder / SAMPLES_FOLDER).mkdir(exist_ok=True)
            for place in sorted(self._sample_folder(asked).glob("step-*.png")):
                ahead = int(place.stem.removeprefix("step-")) > len(self.trainer.history)
                if not ahead and not self._run_copy(place).exists():
                    shutil.copyfile(place, self._run_copy(place))
        except OSError as error:
            self._warn(f"the samples stay in {self._sample_folder(asked)}: {error.strerror}")

    def _step_metrics(self, done: Metrics) -> dict[str, float]:
        from dbrun.training.loop import metrics_as_json

        numbers = {name: value for name, value in metrics_as_json(done).items() if name != "step" and value is not None}
        return {"epoch": done.step / self.ctx.runtime.steps_per_epoch, **numbers}

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        self.trackers.log(numbers, step)
        if self.folder is None:
            return
        try:
            with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **numbers}) + "\n")
        except OSError:
            return

    def _warn(self, text: str) -> None:
        self.ctx.note(text, level="warning")


def _scalars(params: Any) -> dict[str, float | int | str | bool | None]:
    """What the trackers are told of the settings."""
    found = {field.name: getattr(params, field.name) for field in fields(params)}
    return {name: value if isinstance(value, SCALAR_TYPES) else str(value) for name, value in found.items()}
