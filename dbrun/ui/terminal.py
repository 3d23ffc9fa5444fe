"""Where text goes: what a verb was asked for to stdout, all else to stderr; colour only on a terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from dbrun.errors import WIDTH, DbrunError
from dbrun.secrets import hidden

EXCERPT = re.compile(r" +\d* \| ")
CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


_transcripts: list[list[tuple[str, str]]] = []


@contextmanager
def transcript() -> Iterator[list[tuple[str, str]]]:
    """All that is written inside the block by `say` and `put`: ("err" or "out", text) in turn."""
    written: list[tuple[str, str]] = []
    _transcripts.append(written)
    try:
        yield written
    finally:
        _transcripts.pop()


def is_live(stream: TextIO) -> bool:
    """Whether a person watches this stream on a terminal that can redraw a line."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, stream: TextIO) -> str:
    """text in a style, if the stream is a terminal and NO_COLOR is not set."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{CODES[style]}m{text}\x1b[0m"


def width(stream: TextIO) -> int:
    """Columns to write in: the terminal's, or 100 where there is none."""
    if not stream.isatty():
        return 100
    try:
        return int(os.environ.get("COLUMNS", "")) or 100
    except ValueError:
        pass
    try:
        return os.get_terminal_size(stream.fileno()).columns or 100
    except (OSError, ValueError):
        return 100


def say(text: str, end: str = "\n") -> None:
    """A line for people, on stderr."""
    text = hidden(text) + end
    print(text, file=sys.stderr, end="", flush=True)
    for written in _transcripts:
        written.append(("err", text))


def put(text: str, end: str = "\n") -> None:
    """Data that the verb was asked for, on stdout."""
    text = hidden(text) + end
    print(text, end="", flush=True)
    for written in _transcripts:
        written.append(("out", text))


def clock(seconds: float) -> str:
    """A duration as people read it: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def complain(error: DbrunError) -> None:
    """An error as its reader needs it: what was found, then the way out."""
    wide = width(sys.stderr) if sys.stderr.isatty() else WIDTH
    first, *more = f"error: {error.told(wide)}".splitlines()
    lines = [_within(first, wide).replace("error:", paint("error:", "red", sys.stderr), 1)]
    lines += [_within(line, wide) for line in more]
    if error.fix:
        lines.append(_within(f"  → {error.fix}", wide).replace("→", paint("→", "cyan", sys.stderr), 1))
    say("\n".join(lines))


def _within(line: str, wide: int) -> str:
    """A line of a message, on a screen wrapped between words; what a pipe reads, and excerpts, stay as they are."""
    if not sys.stderr.isatty() or len(line) <= wide or EXCERPT.match(line):
        return line
    import textwrap

    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return "\n".join(textwrap.wrap(line, wide, subsequent_indent=indent, break_long_words=False,
                                   break_on_hyphens=False))
