"""A line that says that a verb is at work, before it has anything to tell."""

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
"""Seconds after which whoever watches is told."""
REFRESHES_PER_SECOND = 2
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
    began = time.monotonic()
    shown: list[Live] = []

    def show() -> None:
        shown.append(_start_line(doing, began))

    # what is quick, as it mostly is, does not even import rich
    delay = Timer(DELAY_SECONDS, show)
    delay.daemon = True
    delay.start()
    try:
        yield
    finally:
        delay.cancel()
        delay.join()
        for line in shown:
            line.stop()


def _start_line(doing: str, began: float) -> Live:
    """The line with the time since `began`, which disappears when it stops."""
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
