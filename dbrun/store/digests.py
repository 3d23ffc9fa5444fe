"""sha256 of files, read again only when a file can have changed."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from pathlib import Path

from dbrun.input_file import open_file
from dbrun.store.json_cache import JsonCache

MIN_AGE_SECONDS = 2.0
"""Seconds since a file's last change before its digest is cached. File systems have coarse clocks (FAT: 2 s), so a
second edit within that time can leave every timestamp as it was."""

SMALL_FILE_BYTES = 2**20
"""Size in bytes up to which a file is read in one call."""


def _identity(state: os.stat_result) -> str:
    return f"{state.st_dev}:{state.st_ino}:{state.st_size}:{state.st_mtime_ns}:{state.st_ctime_ns}"


def _digest(file: io.FileIO, size: int) -> str:
    # `file_digest` allocates and clears a buffer of 256 KiB for each file: slow for many small ones.
    if size <= SMALL_FILE_BYTES:
        return hashlib.sha256(file.readall()).hexdigest()
    return hashlib.file_digest(file, "sha256").hexdigest()


class FileDigests:
    """sha256 of files, cached by (device, inode, size, mtime, ctime).

    An edit that restores size and mtime is still seen, because no program can set ctime.
    """

    def __init__(self, table: JsonCache[str]) -> None:
        self._cache = table

    def sha256(self, path: Path) -> str:
        """sha256 of the file's bytes, as 64 hex digits. Raises OSError."""
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            # raises, saying what the path is: reading a named pipe would never end
            open_file(path).close()
        cached = self._cache.get(_identity(state))
        return cached if cached is not None else self._hash(path)

    def _hash(self, path: Path) -> str:
        with path.open("rb", buffering=0) as file:
            while True:
                began, before = time.time(), os.fstat(file.fileno())
                sha256 = _digest(file, before.st_size)
                # Written to while it was read: the digest may be of a mixture that was never in the file.
                identity = _identity(before)
                if identity == _identity(os.fstat(file.fileno())):
                    break
                file.seek(0)
        if began - max(before.st_mtime, before.st_ctime) >= MIN_AGE_SECONDS:
            self._cache.put(identity, sha256)
        return sha256

    def save(self) -> None:
        """Write new digests to the disk, for the next command."""
        self._cache.save()
