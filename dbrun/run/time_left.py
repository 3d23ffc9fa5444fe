"""Time left for a whole run: estimates from earlier runs, corrected by the measured progress of the running stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from dbrun.events import Emit, Event, Progress, StageFinished, StageReused, StageStarted, TimeLeft
from dbrun.plan.estimate import Estimate, stage_workload
from dbrun.plan.planner import Plan, Scope, Status

INTERVAL_SECONDS = 5.0
"""Seconds between two events of a stage at least: each also goes into the run's record."""


class TimeLeftReporter:
    """Passes a run's events on, and adds TimeLeft events to them.

    expected: estimate of each stage that is to run, in order, None if unknown;
    units: number of units of each stage, such as steps; 1 for a stage that does not count them.
    """

    def __init__(self, emit: Emit, expected: Mapping[str, Estimate | None], units: Mapping[str, float],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._emit, self._units, self._clock = emit, units, clock
        self._later = dict(expected)
        self._stage: str | None = None
        self._estimate: Estimate | None = None
        self._began = self._sent_at = 0.0
        self._first_unit_at: float | None = None
        # when the running stage should be done
        self._stage_end: float | None = None

    def __call__(self, event: Event) -> None:
        """Pass one event on, then say the time left if that is due."""
        if isinstance(event, Progress) and event.stage == self._stage:
            event = self._correct(event)
        self._emit(event)
        match event:
            case StageStarted():
                self._begin(event.stage)
                self._send()
            case StageReused():
                self._later.pop(event.stage, None)
            case StageFinished():
                self._stage = None
            case Progress() if event.stage == self._stage and event.seconds_left is not None:
                if self._clock() - self._sent_at >= INTERVAL_SECONDS:
                    self._send()

    def _begin(self, stage: str) -> None:
        self._stage, self._began, self._first_unit_at = stage, self._clock(), None
        self._estimate = self._later.pop(stage, None)
        self._stage_end = None if self._estimate is None else self._began + self._estimate.seconds

    def _correct(self, event: Progress) -> Progress:
        """The event with the stage's seconds left, which are those of its units and of the work after them."""
        now = self._clock()
        if event.done and self._first_unit_at is None:
            self._first_unit_at = now
        if event.seconds_left is None:
            return event
        seconds_left = event.seconds_left + self._seconds_after_units()
        self._stage_end = now + seconds_left
        return replace(event, seconds_left=round(seconds_left, 1))

    def _seconds_after_units(self) -> float:
        """Seconds that the stage takes after its last unit: what its startup did not take before the first one."""
        if self._estimate is None or self._estimate.startup is None or self._first_unit_at is None:
            return 0.0
        return max(0.0, self._estimate.startup - (self._first_unit_at - self._began))

    def _send(self) -> None:
        assert self._stage is not None
        self._sent_at = self._clock()
        later = {name: estimate.seconds for name, estimate in self._later.items() if estimate is not None}
        unknown_later = [name for name, estimate in self._later.items() if estimate is None]
        stage_seconds = None
        if self._stage_end is not None:
            stage_seconds = round(max(0.0, self._stage_end - self._sent_at), 1)
        total = sum(later.values()) + (stage_seconds or 0.0)
        # a pace says nothing about the work after the last unit
        unknown = unknown_later if self._estimate is not None else [self._stage, *unknown_later]
        to_measure = unknown_later if stage_seconds is not None else unknown
        self._emit(TimeLeft(self._stage, round(total, 1), stage_seconds, tuple(unknown), self._known_with(to_measure)))

    def _known_with(self, unknown: Sequence[str]) -> str | None:
        """The stage with the most units of those whose time is not known; None if none of them counts units."""
        counting = [name for name in unknown if self._units.get(name, 1) > 1]
        return max(counting, key=lambda name: self._units[name], default=None)


def report_time_left(emit: Emit, scope: Scope, plan: Plan, known: Mapping[str, Estimate]) -> TimeLeftReporter:
    """The reporter of a plan's time left. known: stage → its estimate, as `estimate_stages` returns them."""
    pending = [stage.name for stage in plan.stages if stage.status in (Status.RUN, Status.RESUME)]
    base = scope.resolved.sources.base.folder
    units = {name: stage_workload(scope, name, base).units for name in pending}
    return TimeLeftReporter(emit, {name: known.get(name) for name in pending}, units)
