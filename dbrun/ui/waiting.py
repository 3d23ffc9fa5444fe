"""A line that shows what a verb is doing, and for how long, before it has anything to print."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING

from dbrun.ui.terminal import format_duration, is_interactive, terminal_width, truncate

if TYPE_CHECKING:
    from rich.live import Live

DELAY_SECONDS = 2.0
"""Seconds before the line appears."""
REFRESHES_PER_SECOND = 2
RIGHT_MARGIN = 4
"""Columns that the line leaves free: a terminal writes ^C there."""


@contextmanager
def show_elapsed(doing: str) -> Iterator[None]:
    """Context manager: after DELAY_SECONDS show a line with `doing` and the elapsed time; only on a terminal.

    Nothing else may be printed inside, because the line is removed from the screen at the end.
    """
    if not is_interactive(sys.stderr):
        yield
        return
    began = time.monotonic()
    shown: list[Live] = []

    def show() -> None:
        shown.append(_start_line(doing, began))

    # A timer, so that a quick block, as most are, does not even import rich.
    delay = Timer(DELAY_SECONDS, show)
    delay.daemon = True
    delay.start()
    try:
        yield
    finally:
        delay.cancel()
        # The timer may be starting the line at this moment; without the join it would stay on the screen.
        delay.join()
        for line in shown:
            line.stop()


def _start_line(doing: str, began: float) -> Live:
    """A live line with the time since `began` (of time.monotonic); it disappears when it stops."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def text() -> Text:
        words = f"{doing}  {format_duration(time.monotonic() - began)}"
        return Text(truncate(words, terminal_width(sys.stderr) - RIGHT_MARGIN), style="dim")

    line = Live(get_renderable=text, console=Console(stderr=True), transient=True,
                refresh_per_second=REFRESHES_PER_SECOND, redirect_stdout=False, redirect_stderr=False)
    line.start(refresh=True)
    return line
