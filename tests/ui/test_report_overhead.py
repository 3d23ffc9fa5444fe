"""Does everything that shows a training cost less than 2 % of it: the bar, the page, the run log and a tracker?"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from dbrun.api.request import make_request
from dbrun.api.run import read_run, run_read
from dbrun.plan.planner import ALL_STAGES
from dbrun.training.monitor import Monitor
from dbrun.ui.progress import LiveReporter

STEPS, WARM_UP = 24, 4
"""Steps of the training, and those at its beginning that are not counted: libraries are imported there."""
MAX_SHARE = 0.02
SHORT = (f"train.steps={STEPS}", "train.checkpoint_every=1000", "prior.count=6", "prior.steps=1", "samples.steps=1",
         "samples.prompts=[a dog]", "trackers=[tensorboard]", "threads=1")


class Terminal(StringIO):
    """A terminal that nobody looks at; what is drawn on it is drawn all the same."""

    def isatty(self) -> bool:
        return True


class Meter:
    """Seconds of one training: those of its steps, of showing them, of all other threads, and on the clock.

    All but the last are processor time: on a machine that others use, too, the clock tells of the others.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.shown = 0.0
        self.marks: list[tuple[float, float, float]] = []

    def log_step(self, real: Callable[..., None]) -> Callable[..., None]:
        def measured(monitor: Monitor, done: Any) -> None:
            self.steps += 1
            before = time.thread_time()
            real(monitor, done)
            if self.steps > WARM_UP:
                self.shown += time.thread_time() - before
            if self.steps in (WARM_UP, STEPS):
                self.marks.append((time.thread_time(), time.process_time(), time.monotonic()))
        return measured

    @property
    def share(self) -> float:
        """The part of a step that it takes longer for being shown, from the end of the warm-up to the last step."""
        own, all_threads, clock = (end - start for start, end in zip(*self.marks, strict=True))
        # with one thread of torch, whatever else runs draws the bar, so often a second, or writes for the tracker
        return self.shown / own + (all_threads - own) / clock


@pytest.mark.slow
def test_all_that_shows_a_training_costs_less_than_two_percent_of_it(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    monkeypatch.setattr(Monitor, "log_step", meter.log_step(Monitor.log_step))
    monkeypatch.setattr(sys, "stderr", Terminal())
    request = make_request("sks_dog", SHORT, store=tmp_path / "store")
    with closing(LiveReporter()) as reporter:
        run_read(read_run(request, reporter), ALL_STAGES, reporter, outputs=tmp_path / "outputs", cancel=None)
    [run] = [path for path in (tmp_path / "store" / "runs").iterdir() if path.is_dir()]
    assert (run / "report.html").is_file() and list(run.rglob("events.out.tfevents*")), "both were at work"
    assert meter.steps == STEPS
    print(f"shown: {meter.share:.2%} of a step", file=sys.__stderr__)
    assert meter.share < MAX_SHARE
