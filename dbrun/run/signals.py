"""Ctrl-C and SIGTERM: the first sets a flag that every loop checks, the second stops the run at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dbrun.errors import Interrupted

HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS_OF_ONE_STOP = 1.0
"""Several SIGTERM within it are one: Slurm sends one to each process of a job, and its batch shell hands on its own."""


class StopFlag(threading.Event):
    """Flag that asks a run to stop. signum: of the signal that set it."""

    signum: int = signal.SIGINT


@contextmanager
def stop_signals() -> Iterator[StopFlag]:
    """Context manager: catch Ctrl-C and SIGTERM; yields a flag that the first one sets.

    A second signal stops the block at once. Raises Interrupted for it. For the main thread only.
    """
    flag = StopFlag()
    first_heard = 0.0

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal first_heard
        if flag.is_set():
            is_same_stop = signum == flag.signum == signal.SIGTERM
            if is_same_stop and time.monotonic() - first_heard < SECONDS_OF_ONE_STOP:
                return
            raise KeyboardInterrupt
        first_heard = time.monotonic()
        flag.signum = signum
        flag.set()

    before = {number: signal.signal(number, handle) for number in HANDLED_SIGNALS}
    try:
        yield flag
    except KeyboardInterrupt:
        raise Interrupted(flag.signum) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_signum(flag: threading.Event | None) -> int:
    """The number of the signal that asked to stop, 0 for none. A flag that a thread has set counts as Ctrl-C."""
    if flag is None or not flag.is_set():
        return 0
    return flag.signum if isinstance(flag, StopFlag) else signal.SIGINT
