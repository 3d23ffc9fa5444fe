"""Stages of one process take turns: torch's threads, settings and peak memory are the process's, not a run's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dbrun.errors import Interrupted

POLL_INTERVAL = 0.1
"""Seconds between two looks at the stop signal while another stage has its turn."""
_turn = threading.Lock()


@contextmanager
def take_turn(on_wait: Callable[[], None] = lambda: None,
              stop_signal: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Context manager: compute while no other thread of this process does.

    on_wait: called once if another thread has its turn; stop_signal: returns a signal's number, or 0.
    Raises Interrupted if a signal arrives while waiting.
    """
    if not _turn.acquire(blocking=False):
        on_wait()
        while not _turn.acquire(timeout=POLL_INTERVAL):
            signum = stop_signal()
            if signum:
                raise Interrupted(signum)
    try:
        yield
    finally:
        _turn.release()
