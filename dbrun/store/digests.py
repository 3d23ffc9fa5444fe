"""What is in a file: its sha256, read again only when the file can have changed?"""

from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path

from dbrun.store.json_cache import JsonCache

MIN_AGE_SECONDS = 2.0
"""Seconds after its last change before a file's digest is remembered: clocks of file systems are coarse."""

SMALL_FILE_BYTES = 2**20
"""Bytes of a file that is read at once."""


def _identity(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def _digest(file: io.FileIO, size: int) -> str:
    # `file_digest` clears a quarter of a MiB for each file
    found = hashlib.sha256(file.readall()) if size <= SMALL_FILE_BYTES else hashlib.file_digest(file, "sha256")
    return found.hexdigest()


class FileDigests:
    """File digests, remembered by (device, inode, size, mtime, ctime).

    An edit that puts size, mtime and inode back is seen, since nothing can put ctime back.
    """

    def __init__(self, table: JsonCache[str]) -> None:
        self._cache = table

    def sha256(self, path: Path) -> str:
        """sha256 of the file's bytes. Raises OSError."""
        known = self._cache.get(_identity(path.stat()))
        return known if known is not None else self._hash(path)

    def _hash(self, path: Path) -> str:
        with path.open("rb", buffering=0) as file:
            while True:
                began, before = time.time(), os.fstat(file.fileno())
                found = _digest(file, before.st_size)
                if (identity := _identity(before)) == _identity(os.fstat(file.fileno())):
                    break
                file.seek(0)
        if began - max(before.st_mtime, before.st_ctime) >= MIN_AGE_SECONDS:
            self._cache.put(identity, found)
        return found

    def save(self) -> None:
        """Keep what was learnt for the next run."""
        self._cache.save()
