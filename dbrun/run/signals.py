"""Ctrl-C and SIGTERM: the first sets a flag that every loop checks, the second stops the run at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Context manager: catch Ctrl-C and SIGTERM; yields a function that returns the first signal's number, or 0.

    A second signal raises KeyboardInterrupt. In a thread other than the main one nothing is caught.
    """
    received = 0

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            raise KeyboardInterrupt
        received = signum

    # Python allows signal handlers in the main thread only; a run by the API may be in another.
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, handle) for number in HANDLED_SIGNALS}
    try:
        yield lambda: received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
