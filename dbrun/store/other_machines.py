"""Other machines that work in the same store, and whether the locks of this one reach them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dbrun.errors import StageFailed
from dbrun.store.atomic import TEMP_NAME, is_foreign, list_dir
from dbrun.store.runs import LIVE_FILE, STALE_SECONDS, list_runs
from dbrun.store.store import Store

MOUNTS = Path("/proc/self/mountinfo")
ONE_KERNEL = {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
"""File systems that only processes of one kernel share, so that they see each other's locks, also from containers."""


def refuse_beside_others(store: Store) -> None:
    """Raise StageFailed if another machine works in the store, and may not see the locks of this one."""
    kind = file_system(store.root)
    if kind in ONE_KERNEL:
        return
    found = next(foreign_owners(store), None)
    if found is not None:
        where = f"on {kind}" if kind else "on this file system"
        raise StageFailed(f"another machine works in the store {store.root} ({found}), and locks {where} may not "
                          "reach it",
                          fix="wait until it is done; with --force it may have to compute a result again")


def foreign_owners(store: Store) -> Iterator[str]:
    """What shows that another machine works in the store: its live runs, then its temporary folders."""
    for run in list_runs(store):
        with suppress(OSError):
            if run.is_live and is_foreign((run.folder / LIVE_FILE).read_text(encoding="ascii", errors="replace")):
                yield f"run {run.id}"
    for path in list_dir(store.scratch):
        with suppress(OSError):
            is_young = time.time() - path.stat().st_mtime < STALE_SECONDS
            if is_young and TEMP_NAME.fullmatch(path.name) and is_foreign(path.name):
                yield f"its folder tmp/{path.name}"


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on, such as `ext4` or `nfs4`; empty where the system does not tell.
    """
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place, found, kind = folder.resolve(), Path(), ""
    for line in lines:
        # proc(5): the mount point is the fifth field, and the type comes after a lone hyphen
        mount, _, rest = line.partition(" - ")
        point = Path(_unescape(mount.split(" ")[4]))
        # not shorter: a later mount on the same point hides the earlier one
        if place.is_relative_to(point) and len(point.parts) >= len(found.parts):
            found, kind = point, rest.split(" ")[0]
    return kind


def _unescape(text: str) -> str:
    r"""A path of mountinfo with its octal escapes, such as \040 for a blank, replaced."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
