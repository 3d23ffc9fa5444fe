"""Is there room for what a stage is going to write?"""

from __future__ import annotations

import os

from dbrun.errors import StageFailed
from dbrun.store.store import Store

UNITS = ("B", "KiB", "MiB", "GiB")


def words(size: float) -> str:
    """Bytes as people read them: 0 B, 512 B, 3.4 KiB, 12 MiB."""
    for unit in UNITS:
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def free(store: Store) -> int | None:
    """Bytes that may still be written where the store is; None where the system does not say."""
    try:
        state = os.statvfs(store.root)
    except OSError:
        return None
    return state.f_bavail * state.f_frsize if state.f_blocks else None


def check_room(store: Store, stage: str, need: int) -> None:
    """Raise StageFailed where a stage can need more bytes than are free."""
    there = free(store)
    if there is not None and need > there:
        raise StageFailed(f"{stage} needs up to {words(need)} in the store, and {words(there)} are free on its disk",
                          fix="free some room (`dbrun gc --dry-run` says what can go), or set DBRUN_STORE to a "
                          "larger disk")
