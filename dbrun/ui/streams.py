"""Standard streams that may be closed, full, or of an encoding without our characters."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from dbrun.errors import DbrunError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDOUT, STDERR = 1, 2


class OutputLost(DbrunError):
    """Standard output cannot be written, for example because the disk is full."""


class _Output(io.FileIO):
    """Standard output: the first failed write raises OutputLost, and every later one is dropped."""

    is_lost = False

    def write(self, data: ReadableBuffer) -> int:
        if self.is_lost:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            # what is left in the buffer must not fail once more when the interpreter flushes it at its end
            self.is_lost = True
            raise OutputLost(f"standard output cannot be written: {error.strerror}",
                             fix="write it elsewhere; finished work is kept") from error


class _Messages(io.FileIO):
    """Standard error: a write that fails is dropped, since there is no other place for messages."""

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        # a full disk below a log file must not end a training of hours
        except OSError:
            return memoryview(data).nbytes


def guard_streams() -> None:
    """Replace the standard streams of this process by guarded ones; those that a caller put there stay.

    A closed stream becomes /dev/null. A character that the encoding lacks is written as an escape such as \\u2026.
    """
    _fill_closed()
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _guarded(_Output(STDOUT, "w", closefd=False), sys.stdout)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _guarded(_Messages(STDERR, "w", closefd=False), sys.stderr)


def _fill_closed() -> None:
    """Open /dev/null for each closed stream: the next file that is opened would get its number, and be printed into."""
    handle = os.open(os.devnull, os.O_RDWR)
    while handle <= STDERR:
        handle = os.dup(handle)
    os.close(handle)


def _guarded(raw: io.FileIO, old: TextIO | None) -> TextIO:
    """Text stream on raw. old: the stream that it replaces; None if that was closed."""
    encoding, by_line = "utf-8", raw.isatty()
    if old is not None:
        encoding = old.encoding
        by_line = bool(getattr(old, "line_buffering", by_line))
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=by_line)
