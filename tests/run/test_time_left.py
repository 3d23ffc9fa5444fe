"""Is the time left of a whole run that of earlier runs, corrected by what is measured now?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from stub_world import go

from dbrun.events import Event, Progress, StageFinished, StageReused, StageStarted, TimeLeft
from dbrun.pace import SHORTEST_SECONDS, WINDOW_SECONDS, Pace
from dbrun.plan.estimate import Estimate
from dbrun.run.time_left import TimeLeftReporter


@dataclass
class World:
    """A clock, and what a reporter of the stages load, train and export said."""

    now: float = 0.0
    heard: list[Event] = field(default_factory=list)

    def reporter(self, **expected: Estimate | None) -> TimeLeftReporter:
        return TimeLeftReporter(self.heard.append, expected, {"train": 300, "export": 14}, lambda: self.now)

    @property
    def last(self) -> TimeLeft:
        return [event for event in self.heard if isinstance(event, TimeLeft)][-1]


def took(seconds: float, startup: float | None = None) -> Estimate:
    return Estimate(seconds, None, None, startup)


def test_what_is_measured_replaces_what_the_running_stage_was_expected_to_take() -> None:
    world = World()
    report = world.reporter(train=took(100.0), export=took(20.0))
    report(StageStarted("train", "new"))
    assert world.last == TimeLeft("train", 120.0, 100.0)
    world.now = 30.0
    report(Progress("train", 10, 300, "steps", seconds_left=None))
    assert len(world.heard) == 3, "no new event before the pace is known"
    report(Progress("train", 11, 300, "steps", seconds_left=400.0))
    assert world.last == TimeLeft("train", 420.0, 400.0)
    world.now = 32.0
    report(Progress("train", 12, 300, "steps", seconds_left=390.0))
    assert world.last.seconds == 420.0, "an event every few seconds"
    for event in (StageFinished("train", "ab", 32.0), StageStarted("export", "new")):
        report(event)
    assert world.last == TimeLeft("export", 20.0, 20.0)


def test_a_stage_that_turns_out_to_be_cached_takes_no_time() -> None:
    world = World()
    report = world.reporter(load=took(5.0), train=took(100.0), export=took(20.0))
    report(StageReused("load", "ab"))
    report(StageReused("train", "cd"))
    report(StageStarted("export", "new"))
    assert world.last == TimeLeft("export", 20.0, 20.0)


def test_stages_that_were_never_timed_are_named() -> None:
    world = World()
    report = world.reporter(load=None, train=None, export=None)
    report(StageStarted("load", "new"))
    assert world.last == TimeLeft("load", 0.0, None, ("load", "train", "export"), "train")
    report(StageStarted("train", "new"))
    assert world.last == TimeLeft("train", 0.0, None, ("train", "export"), "train")
    world.now = 9.0
    report(Progress("train", 5, 300, "steps", seconds_left=50.0))
    # its pace is known; what it does after its last step is not
    assert world.last == TimeLeft("train", 50.0, 50.0, ("train", "export"), "export")


def test_work_after_the_last_unit_counts_as_far_as_earlier_runs_show_it() -> None:
    world = World()
    report = world.reporter(export=took(74.0, startup=60.0))
    report(StageStarted("export", "new"))
    report(Progress("export", 0, 14, "pictures"))
    world.now = 12.0
    report(Progress("export", 1, 14, "pictures"))
    world.now = 18.0
    report(Progress("export", 7, 14, "pictures", seconds_left=7.0))
    # 12 of the 60 s went by before the first picture; the files are written after the last one
    assert world.last == TimeLeft("export", 55.0, 55.0)
    assert isinstance(event := world.heard[-2], Progress) and event.seconds_left == 55.0


@pytest.mark.parametrize("overrides", [(), ("train.steps=12",)])
def test_a_run_says_the_time_left_as_each_stage_begins(home: Path, overrides: tuple[str, ...]) -> None:
    told: list[Event] = []
    if overrides:
        go(home)
    go(home, *overrides, emit=told.append)
    started = [event.stage for event in told if isinstance(event, StageStarted)]
    said = [event for event in told if isinstance(event, TimeLeft)]
    assert [event.stage for event in said] == started and started[-2:] == ["train", "export"]
    if overrides:
        assert said[0].stage == "train" and said[0].unknown == () and said[0].stage_seconds is not None
    else:
        assert said[0].unknown == tuple(started) and said[0].known_with == "train"
    again: list[Event] = []
    go(home, *overrides, emit=again.append)
    assert not [event for event in again if isinstance(event, TimeLeft)]


def test_a_pace_is_that_of_the_last_minutes_and_new_work_starts_anew() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    pace.record(0)
    for unit in range(1, 6):
        now[0] += SHORTEST_SECONDS / 4
        pace.record(unit)
        assert pace.seconds_left(10) == (None if unit < 5 else 5.0)
    # the machine gets slow
    for unit in range(6, 30):
        now[0] += WINDOW_SECONDS / 10
        pace.record(unit)
    assert pace.seconds_left(10) == pytest.approx(WINDOW_SECONDS)
    pace.record(1)
    assert pace.seconds_left(10) is None
