"""What a stage took: the time that grew with its work, the time of getting ready, and the most memory."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dbrun.events import Emit, Event, Progress
from dbrun.store.items import DiskItemCache
from dbrun.store.locks import Lock

PROC_STATUS, PROC_CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class StageTimer:
    """Where a stage's events go: how far it is also into the lock, for those who wait.

    What is measured begins when the first unit is ready: the first waits for the base to be in memory. Where units are
    single items, only those count that were made here.
    """

    def __init__(self, emit: Emit, lock: Lock | None, items: DiskItemCache,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.emit, self.lock, self.items, self.clock = emit, lock, items, clock
        self._done_before, self._has_started = 0, False
        self._total, self._done = 0, 0
        self._first = self._last = (0, 0.0)

    def __call__(self, event: Event) -> None:
        """Pass one event on."""
        if isinstance(event, Progress):
            if not self._has_started:
                # a stage's first word may come after its first step
                self._done_before, self._has_started = max(0, event.done - 1), True
            self._total, self._done = event.total, event.done - self._done_before
            self._record_units(self.items.new_count if self.items.used_keys else self._done)
            if self.lock is not None:
                self.lock.report_progress(f"{event.done} of {event.total} {event.unit}")
        self.emit(event)

    @property
    def share(self) -> float | None:
        """Of the whole work the part that was done; None where the stage said nothing."""
        return self._done / self._total if self._total else None

    def startup(self, seconds: float) -> float | None:
        """Of all its seconds those that did not grow with the work; None where too little was done to tell."""
        (few, since), (many, until) = self._first, self._last
        if many == few:
            return None
        return max(0.0, seconds - (until - since) / (many - few) * many)

    def _record_units(self, units: int) -> None:
        if units > self._last[0]:
            self._last = units, self.clock()
            self._first = self._first if self._first[0] else self._last


@contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], int]]:
    """Inside the block, bytes at most since its beginning: of the GPU where one computes, else of this process.

    0 where the system does not tell.
    """
    with suppress(OSError):
        PROC_CLEAR_REFS.write_text("5", encoding="ascii")
    cuda = _active_cuda() if device == "cuda" else None
    if cuda is not None:
        cuda.reset_peak_memory_stats()

    def most() -> int:
        used = _active_cuda() if device == "cuda" else None
        return int(used.max_memory_allocated()) if used is not None else _peak_resident()

    yield most


def _active_cuda() -> Any | None:
    """torch.cuda, once it is at work."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _peak_resident() -> int:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", PROC_STATUS.read_text(encoding="ascii", errors="replace"),
                          re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
