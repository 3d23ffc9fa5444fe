"""Disk space: free bytes in a folder, and the check before a stage writes large files."""

from __future__ import annotations

import os
from pathlib import Path

from dbrun.errors import StageFailed

UNITS = ("B", "KiB", "MiB", "GiB")


def format_bytes(size: float) -> str:
    """Number of bytes as text with a unit: 0 B, 512 B, 3.4 KiB, 12 MiB."""
    for unit in UNITS:
        if size < 1024:
            decimals = 0 if size >= 10 or unit == "B" else 1
            return f"{size:.{decimals}f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def free_bytes(folder: Path) -> int | None:
    """Free bytes on the disk of a folder, which need not exist yet; None where the system does not tell."""
    try:
        state = os.statvfs(nearest_existing(folder))
    except OSError:
        return None
    # some network and in-memory file systems report zero blocks, which does not mean that they are full
    if not state.f_blocks:
        return None
    # f_bavail, not f_bfree: root's reserve is not for us
    return state.f_bavail * state.f_frsize


def nearest_existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def check_free_space(folder: Path, called: str, what: str, need: int, fix: str) -> None:
    """Raise StageFailed where a folder's disk has fewer than `need` bytes free.

    called: the folder's name in the error; what: what is going to be written; fix: what the user can do.
    """
    free = free_bytes(folder)
    if free is not None and need > free:
        raise StageFailed(f"{what} needs up to {format_bytes(need)} in {called}, and {format_bytes(free)} are free on "
                          "its disk", fix=fix)
