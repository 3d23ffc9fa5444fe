"""Is there room for what is going to be written?"""

from __future__ import annotations

import os
from pathlib import Path

from dbrun.errors import StageFailed

UNITS = ("B", "KiB", "MiB", "GiB")


def format_bytes(size: float) -> str:
    """Bytes as people read them: 0 B, 512 B, 3.4 KiB, 12 MiB."""
    for unit in UNITS:
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def free_bytes(folder: Path) -> int | None:
    """Bytes that may still be written into a folder, made or not; None where the system does not say."""
    try:
        state = os.statvfs(nearest_existing(folder))
    except OSError:
        return None
    return state.f_bavail * state.f_frsize if state.f_blocks else None


def nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there already."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def check_free_space(folder: Path, called: str, what: str, need: int, fix: str) -> None:
    """Raise StageFailed where more bytes can be needed in a folder than are free there.

    called, what: how the error names the folder, and what is going to be written; fix: the way out.
    """
    there = free_bytes(folder)
    if there is not None and need > there:
        raise StageFailed(f"{what} needs up to {format_bytes(need)} in {called}, and {format_bytes(there)} are free on "
                          "its disk", fix=fix)
