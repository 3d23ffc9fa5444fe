"""How is it seen that a verb is at work, before it has anything to tell?"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from dbrun.ui.terminal import format_duration, is_interactive, paint, terminal_width, truncate

DELAY_SECONDS = 2.0
"""Seconds after which whoever watches is told."""
REFRESH_SECONDS = 0.5
"""Seconds between two looks at the clock."""
RIGHT_MARGIN = 4
"""Columns that the line leaves free: a terminal writes ^C there."""


@contextmanager
def show_elapsed(doing: str) -> Iterator[None]:
    """Show on a terminal what goes on inside the block, and for how long, once that takes a while; nothing elsewhere.

    Nothing else may be said inside: the line is taken off the screen at the end.
    """
    if not is_interactive(sys.stderr):
        yield
        return
    over = Event()
    clockwork = Thread(target=_show, args=(doing, over), daemon=True)
    clockwork.start()
    try:
        yield
    finally:
        over.set()
        clockwork.join()


def _show(doing: str, over: Event) -> None:
    begun = time.monotonic()
    if over.wait(DELAY_SECONDS):
        return
    while True:
        line = truncate(f"{doing}  {format_duration(time.monotonic() - begun)}",
                        terminal_width(sys.stderr) - RIGHT_MARGIN)
        sys.stderr.write(f"\r{paint(line, 'dim', sys.stderr)}\x1b[K")
        sys.stderr.flush()
        if over.wait(REFRESH_SECONDS):
            break
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()
