"""Measurements of a stage: seconds that grew with the work, seconds of startup, peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from dbrun.events import Emit, Event, Progress
from dbrun.pace import Pace
from dbrun.peak_memory import PEAK
from dbrun.store.items import DiskItemCache
from dbrun.store.locks import Lock


class StageTimer:
    """Receives a stage's events, measures its pace, writes its progress into the lock, and passes the events on.

    The measurement begins when the first unit is done, because the first one waits for the base to be loaded. If the
    units are cached items, only those count that were made by this process.
    share_to_make: part of the items that is still to be made, 0 to 1; processes: how many make items at once.
    """

    def __init__(self, emit: Emit, lock: Lock | None, items: DiskItemCache, *, share_to_make: float = 1.0,
                 processes: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self.emit, self.lock, self.items, self.clock = emit, lock, items, clock
        self.share_to_make, self.processes = share_to_make, processes
        self._pace = Pace(clock)
        self._done_before, self._has_started = 0, False
        self._total, self._done = 0, 0
        self._first = self._last = (0, 0.0)

    def __call__(self, event: Event) -> None:
        """Pass one event on."""
        if isinstance(event, Progress):
            if not self._has_started:
                # A resumed training begins at its checkpoint's step. The first event may come after the first step,
                # so the step before it counts as done before.
                self._done_before = max(0, event.done - 1)
                self._has_started = True
            self._total = event.total
            self._done = event.done - self._done_before
            units = self.items.new_count if self.items.used_keys else self._done
            self._record_units(units)
            self._pace.record(units)
            event = replace(event, seconds_left=self._pace.seconds_left(self._units_left(event, units)))
            if self.lock is not None:
                self.lock.report_progress(f"{event.done} of {event.total} {event.unit}")
        self.emit(event)

    @property
    def share(self) -> float | None:
        """The part of the whole work that was done, 0 to 1; None if the stage reported no progress."""
        return self._done / self._total if self._total else None

    def startup(self, seconds: float) -> float | None:
        """The seconds that did not grow with the work; None if too few units were done to tell.

        seconds: the duration of the whole stage.
        """
        (few, since), (many, until) = self._first, self._last
        if many == few:
            return None
        # A line through the first and the last unit: what is left at zero units is startup.
        seconds_per_unit = (until - since) / (many - few)
        return max(0.0, seconds - seconds_per_unit * many)

    def _units_left(self, event: Progress, units: int) -> float:
        """Units that this process still has to do. units: those that it has done."""
        left = event.total - event.done
        if not self.items.used_keys:
            return left
        # Those that are stored take no time; where the stage cannot name its items in advance, none is known to be.
        to_make = event.total * self.share_to_make - units * self.processes
        return min(left, to_make) / self.processes

    def _record_units(self, units: int) -> None:
        if units > self._last[0]:
            self._last = units, self.clock()
            if not self._first[0]:
                self._first = self._last


@contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], int]]:
    """Context manager: yields a function that returns the peak memory in bytes since the block began.

    Memory of the GPU if device is "cuda", else resident memory of this process, without the base's files as they are
    read; 0 if the system does not tell.
    """
    PEAK.restart()
    cuda = _active_cuda() if device == "cuda" else None
    if cuda is not None:
        cuda.reset_peak_memory_stats()

    def most() -> int:
        used = _active_cuda() if device == "cuda" else None
        return int(used.max_memory_allocated()) if used is not None else PEAK.read()

    yield most


def _active_cuda() -> Any | None:
    """torch.cuda, if torch is imported and has initialised the GPU."""
    # From sys.modules: an import here would cost seconds for stages that need no torch.
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
