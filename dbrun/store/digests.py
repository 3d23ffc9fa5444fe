"""What is in a file: its sha256, read again only when the file can have changed?"""

from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path

from dbrun.store.json_cache import Table

SETTLED = 2.0
"""Seconds after its last change before a file's digest is remembered: clocks of file systems are coarse."""

SMALL = 2**20
"""Bytes of a file that is read at once."""


def _identity(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def _digest(file: io.FileIO, size: int) -> str:
    # `file_digest` clears a quarter of a MiB for each file
    found = hashlib.sha256(file.readall()) if size <= SMALL else hashlib.file_digest(file, "sha256")
    return found.hexdigest()


class Digests:
    """File digests, remembered by (device, inode, size, mtime, ctime).

    An edit that puts size, mtime and inode back is seen, since nothing can put ctime back.
    """

    def __init__(self, table: Table[str]) -> None:
        self._table = table

    def of(self, path: Path) -> str:
        """sha256 of the file's bytes. Raises OSError."""
        known = self._table.get(_identity(path.stat()))
        return known if known is not None else self._hash(path)

    def _hash(self, path: Path) -> str:
        with path.open("rb", buffering=0) as file:
            while True:
                began, before = time.time(), os.fstat(file.fileno())
                found = _digest(file, before.st_size)
                if (identity := _identity(before)) == _identity(os.fstat(file.fileno())):
                    break
                file.seek(0)
        if began - max(before.st_mtime, before.st_ctime) >= SETTLED:
            self._table.put(identity, found)
        return found

    def save(self) -> None:
        """Keep what was learnt for the next run."""
        self._table.save()
