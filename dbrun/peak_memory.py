"""Peak of this process's resident memory, without the files that are only read through it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROC_STATUS, PROC_CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CURRENT, HIGHEST = "VmRSS", "VmHWM"
"""Resident memory of a process now, and the most since the last reset (proc(5))."""


class PeakMemory:
    """The kernel's high-water mark of this process's resident memory, in bytes; 0 where the system does not tell."""

    def __init__(self) -> None:
        self._highest_before = 0

    def restart(self) -> None:
        """Begin anew at what is resident now."""
        self._highest_before = 0
        _reset_high_water_mark()

    def read(self) -> int:
        """The most that was resident since `restart`."""
        return max(self._highest_before, resident_bytes(HIGHEST))

    @contextmanager
    def without_files(self) -> Iterator[None]:
        """Context manager: leave out what is mapped inside it and gone at its end, such as files that are read.

        Their pages count as resident, but the system takes them back where memory is short. What stays counts.
        """
        before = self.read()
        try:
            yield
        finally:
            # only where the mark can be reset: else it holds what was before, too
            self._highest_before = before
            _reset_high_water_mark()


PEAK = PeakMemory()
"""The mark is one for the whole process."""


def resident_bytes(field: str = CURRENT) -> int:
    """Resident memory of this process, `CURRENT` or `HIGHEST`; 0 where the system does not tell."""
    try:
        status = PROC_STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _reset_high_water_mark() -> None:
    # writing 5 resets the kernel's mark; without it what came earlier counts
    with suppress(OSError):
        PROC_CLEAR_REFS.write_text("5", encoding="ascii")
