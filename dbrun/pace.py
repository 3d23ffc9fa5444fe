"""Pace of counted work, and the time that the rest of it will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 600.0
"""The pace is that of the last units of so many seconds: long enough to hold pauses for samples, and short enough to
follow a machine that gets busy."""
SAMPLE_SECONDS = 1.0
"""Seconds between two remembered moments at least, so that a window holds few of them."""
SHORTEST_SECONDS = 2.0
"""Seconds that a measurement must take before it is believed."""


class Pace:
    """Pace of work that is counted in units, such as steps.

    The measurement begins when the first unit is done, because the first one waits for the base to be loaded.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moments: deque[tuple[int, float]] = deque()

    def record(self, units: int) -> None:
        """Remember how many units are done now. A smaller number than before means that new work has begun."""
        if self._moments and units < self._moments[-1][0]:
            self._moments.clear()
        if units == 0 or (self._moments and units == self._moments[-1][0]):
            return
        now = self._clock()
        # The newest moment is replaced until it is far enough from the one before it.
        if len(self._moments) > 1 and now - self._moments[-2][1] < SAMPLE_SECONDS:
            self._moments.pop()
        self._moments.append((units, now))
        while len(self._moments) > 2 and now - self._moments[1][1] > WINDOW_SECONDS:
            self._moments.popleft()

    def seconds_left(self, units: float) -> float | None:
        """Seconds that this many more units will take; None while too little is done to tell."""
        if len(self._moments) < 2:
            return None
        (few, since), (many, until) = self._moments[0], self._moments[-1]
        if until - since < SHORTEST_SECONDS:
            return None
        return max(0.0, units) * (until - since) / (many - few)
