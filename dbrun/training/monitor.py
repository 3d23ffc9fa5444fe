"""What goes on beside a training, for people to see: a line a step, samples, trackers. No result depends on it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dbrun.training.loop import Metrics, Trainer, metrics_as_json
from dbrun.training.recompute import peak_mib
from dbrun.training.trackers import Trackers

if TYPE_CHECKING:
    from PIL.Image import Image

    from dbrun.training.settings import TrainParams

METRICS_FILE, SAMPLES_FOLDER = "metrics.jsonl", "samples"
SCALAR_TYPES = (bool, int, float, str)


class Samples(Protocol):
    """Which pictures are drawn while training: one for each prompt, every so many steps."""

    @property
    def every(self) -> int:
        """Steps between two rows of pictures."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of each column."""

    @property
    def fingerprint(self) -> str:
        """What pictures drawn in this way have in common, however often they are drawn."""


class Listener(Protocol):
    """Who hears of a training, and may stop it: the stage's context."""

    def progress(self, done: int, total: int, unit: str, **metrics: float) -> None:
        """Report that done of total units are ready."""

    def note(self, text: str, level: str = "info") -> None:
        """Tell the user something."""

    @property
    def stop_signal(self) -> Callable[[], int]:
        """Gives the number of the signal that asked to stop, or 0."""


class Monitor:
    """Writes down how a training goes, draws its samples, and tells trackers.

    run_folder: where all of it lies, None in a process that tells nothing; work: a folder that survives a crash, which
    keeps the sample pictures for a run that goes on; samples: what is drawn, None for nothing; draw: one column's
    picture by the model as it stands; images_per_step: pictures that a step shows. Nothing that goes wrong here ends
    a training.
    """

    def __init__(self, trainer: Trainer, listener: Listener, *, run_folder: Path | None, work: Path, name: str,
                 trackers: tuple[str, ...], samples: Samples | None, draw: Callable[[int], Image],
                 images_per_step: int, steps_per_epoch: float) -> None:
        self.trainer, self.listener, self.samples, self.draw = trainer, listener, samples, draw
        self.folder, self.work = run_folder, work
        self.images_per_step, self.steps_per_epoch = images_per_step, steps_per_epoch
        self.trackers = Trackers(trackers if run_folder else (), name, run_folder or Path(),
                                 _scalars(trainer.settings), listener.note, self._warn)
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
        seconds = max(time.monotonic() - self._step_started, 1e-9)
        numbers = {**self._step_metrics(done), "images_per_second": self.images_per_step / seconds,
                   "memory_mib": peak_mib()}
        self.listener.progress(done.step, self.trainer.settings.steps, "steps", **numbers)
        self._log(numbers, done.step)

    def draw_samples(self) -> None:
        """Draw pictures if it is time; what has been drawn is not drawn again. Called where a checkpoint stands."""
        asked, step = self.samples, len(self.trainer.history)
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

    def _draw(self, asked: Samples, place: Path, step: int) -> None:
        from dbrun.images.grid import draw_grid, save_png

        pictures: list[Image] = []
        with self.trainer.sampling_mode():
            for column in range(len(asked.prompts)):
                if self.listener.stop_signal():
                    return
                pictures.append(self.draw(column))
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{os.getpid()}.{place.name}")
        save_png(draw_grid(((f"step {step}", pictures),), asked.prompts), beside)
        beside.replace(place)
        self._copy_samples()
        self.listener.note(f"samples after step {step}: {self._run_copy(place)}")
        self.trackers.log_images({f"{column}: {prompt}": picture for column, (prompt, picture) in
                                  enumerate(zip(asked.prompts, pictures, strict=True))}, step)

    def _sample_folder(self, asked: Samples) -> Path:
        return self.work / SAMPLES_FOLDER / asked.fingerprint

    def _run_copy(self, place: Path) -> Path:
        assert self.folder is not None
        return self.folder / SAMPLES_FOLDER / place.name

    def _copy_samples(self) -> None:
        """Copy into the run's folder what was drawn up to here."""
        asked = self.samples
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
        numbers = {name: value for name, value in metrics_as_json(done).items() if name != "step" and value is not None}
        return {"epoch": done.step / self.steps_per_epoch, **numbers}

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
        self.listener.note(text, level="warning")


def _scalars(params: TrainParams) -> dict[str, float | int | str | bool | None]:
    """What the trackers are told of the settings."""
    return {name: value if isinstance(value, SCALAR_TYPES) else str(value) for name, value in params}
