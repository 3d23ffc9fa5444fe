"""The monitor of a training: metrics, sample pictures and trackers, for people to watch. No result depends on it."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dbrun.models.sampler import PictureBlocks
from dbrun.naming import METRICS_FILE
from dbrun.training.loop import Metrics, Trainer, metrics_as_json
from dbrun.training.recompute import peak_mib
from dbrun.training.trackers import Trackers

if TYPE_CHECKING:
    from PIL.Image import Image

    from dbrun.training.settings import TrainParams

SAMPLES_FOLDER = "samples"
SCALAR_TYPES = (bool, int, float, str)
WRITE_INTERVAL = 0.2
"""Seconds between two writes of metrics.jsonl. To open and close it took longer than all else that a step reports."""


class Samples(Protocol):
    """The sample pictures of a training: one for each prompt, every so many steps."""

    @property
    def every(self) -> int:
        """Steps between two rows of sample pictures."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of each column."""

    @property
    def block(self) -> int:
        """Number of pictures that are drawn at once."""

    @property
    def fingerprint(self) -> str:
        """Digest of all settings but `every`: the name of the folder of the pictures."""


class Listener(Protocol):
    """The receiver of a training's progress, which may stop it: the stage's context."""

    def progress(self, done: int, total: int, unit: str, **metrics: float) -> None:
        """Report that `done` of `total` units are ready. metrics: further numbers of this moment."""

    def note(self, text: str, level: str = "info") -> None:
        """Show the user a text. level: `info` or `warning`."""

    @property
    def stop_signal(self) -> Callable[[], int]:
        """A function that gives the number of the signal that asked to stop, or 0."""


class Monitor:
    """Writes metrics, draws sample pictures, and feeds trackers. An error in any of these never ends a training.

    run_folder: where the files go, None for a process that writes none. work: a folder that survives a crash; it keeps
    the sample pictures for a resumed run. name: the run's. samples: None for no pictures. draw: a block of columns ->
    their pictures by the current model. images_per_step: pictures in a step. steps_per_epoch: converts steps to epochs.
    """

    def __init__(self, trainer: Trainer, listener: Listener, *, run_folder: Path | None, work: Path, name: str,
                 trackers: tuple[str, ...], samples: Samples | None, draw: Callable[[Sequence[int]], Sequence[Image]],
                 images_per_step: int, steps_per_epoch: float) -> None:
        self.trainer, self.listener, self.samples, self.draw = trainer, listener, samples, draw
        self.folder, self.work = run_folder, work
        self.images_per_step, self.steps_per_epoch = images_per_step, steps_per_epoch
        # without a run folder no tracker is started, and the path is not used
        active = trackers if run_folder else ()
        self.trackers = Trackers(active, name, run_folder or Path(), _scalars(trainer.settings), listener.note,
                                 self._warn)
        self._step_started = time.monotonic()
        self._unwritten: list[str] = []
        self._written_at = -math.inf

    def start(self) -> None:
        """Log the steps of an earlier run again, and draw the samples that it was stopped before."""
        for done in self.trainer.history:
            self._log(self._step_metrics(done), done.step)
        self._copy_samples()
        # the checkpoint of a step is written before its samples: a crash in between leaves them undrawn
        if self.trainer.history:
            self.draw_samples()
        self._step_started = time.monotonic()

    def log_step(self, done: Metrics) -> None:
        """Report the metrics of a step, with speed and memory."""
        # at least a nanosecond: a coarse clock must not make the speed infinite
        seconds = max(time.monotonic() - self._step_started, 1e-9)
        numbers = {**self._step_metrics(done), "images_per_second": self.images_per_step / seconds,
                   "memory_mib": peak_mib()}
        self.listener.progress(done.step, self.trainer.settings.steps, "steps", **numbers)
        self._log(numbers, done.step)

    def draw_samples(self) -> None:
        """Draw the sample pictures of the current step if they are due and not drawn yet.

        Call it after the step's checkpoint is written, so that a crash while drawing loses no step.
        """
        samples, step = self.samples, len(self.trainer.history)
        if self.folder is not None and samples is not None and step % samples.every == 0:
            path = self._sample_folder(samples) / f"step-{step:08d}.png"
            # drawing takes a while: the steps before it are told first
            self._write_lines()
            # any error, such as out of memory: pictures are an extra, and hours of training are worth more
            try:
                if not path.exists():
                    self._draw(samples, path, step)
            except Exception as error:
                message = (str(error).strip() or "no message").splitlines()[0][:200]
                self._warn(f"no samples after step {step}: {type(error).__name__}: {message}")
        # the time of drawing is not the next step's
        self._step_started = time.monotonic()

    def close(self) -> None:
        """Write what is not written yet, and close the trackers."""
        self._write_lines()
        self.trackers.close()

    def _draw(self, samples: Samples, path: Path, step: int) -> None:
        """Draw a row of pictures, one per prompt, and write it to path; give up quietly if a signal asks to stop."""
        from dbrun.images.grid import draw_grid, save_png

        pictures: list[Image] = []
        drawn = PictureBlocks(len(samples.prompts), samples.block, self.draw)
        with self.trainer.sampling_mode():
            for column in range(len(samples.prompts)):
                if self.listener.stop_signal():
                    return
                pictures.append(drawn[column])
        grid = draw_grid(((f"step {step}", pictures),), samples.prompts)
        path.parent.mkdir(parents=True, exist_ok=True)
        # write beside, then rename: a file that exists is whole, and is not drawn again
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        save_png(grid, temporary)
        temporary.replace(path)
        self._copy_samples()
        self.listener.note(f"samples after step {step}: {self._run_copy(path)}")
        named: dict[str, Image] = {}
        for column, (prompt, picture) in enumerate(zip(samples.prompts, pictures, strict=True)):
            # numbered, since two columns may have one prompt
            named[f"{column}: {prompt}"] = picture
        self.trackers.log_images(named, step)

    def _sample_folder(self, samples: Samples) -> Path:
        """The folder below `work` for pictures with these settings."""
        return self.work / SAMPLES_FOLDER / samples.fingerprint

    def _run_copy(self, path: Path) -> Path:
        """The place of a sample picture in the run's folder."""
        assert self.folder is not None
        return self.folder / SAMPLES_FOLDER / path.name

    def _copy_samples(self) -> None:
        """Copy the sample pictures up to the current step into the run's folder."""
        samples = self.samples
        if self.folder is None or samples is None or not self._sample_folder(samples).is_dir():
            return
        try:
            (self.folder / SAMPLES_FOLDER).mkdir(exist_ok=True)
            for path in sorted(self._sample_folder(samples).glob("step-*.png")):
                # a longer run, or one whose newest checkpoints were lost, may have drawn later steps
                is_later = int(path.stem.removeprefix("step-")) > len(self.trainer.history)
                if not is_later and not self._run_copy(path).exists():
                    shutil.copyfile(path, self._run_copy(path))
        except OSError as error:
            self._warn(f"cannot copy the samples, so they stay in {self._sample_folder(samples)}: {error.strerror}")

    def _step_metrics(self, done: Metrics) -> dict[str, float]:
        """The epoch and the metrics of a step by name, without those that have no value."""
        numbers: dict[str, float] = {"epoch": done.step / self.steps_per_epoch}
        for name, value in metrics_as_json(done).items():
            if name != "step" and value is not None:
                numbers[name] = value
        return numbers

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        """Send the numbers to the trackers and append them to metrics.jsonl, several steps at a time."""
        self.trackers.log(numbers, step)
        if self.folder is None:
            return
        self._unwritten.append(json.dumps({"step": step, **numbers}) + "\n")
        # a crash loses no step for that: checkpoints carry the history, and `start` logs it again
        if time.monotonic() - self._written_at >= WRITE_INTERVAL:
            self._write_lines()

    def _write_lines(self) -> None:
        """Append the lines of metrics.jsonl that are not written yet."""
        if self.folder is None or not self._unwritten:
            return
        lines, self._unwritten = self._unwritten, []
        try:
            with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write("".join(lines))
        except OSError:
            # a full disk: the stage's own metrics.jsonl is written at the end all the same
            pass
        self._written_at = time.monotonic()

    def _warn(self, text: str) -> None:
        self.listener.note(text, level="warning")


def _scalars(params: TrainParams) -> dict[str, float | int | str | bool | None]:
    """The settings as the trackers can take them: numbers and text."""
    scalars: dict[str, float | int | str | bool | None] = {}
    for name, value in params:
        scalars[name] = value if isinstance(value, SCALAR_TYPES) else str(value)
    return scalars
