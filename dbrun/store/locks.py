"""Who works on this right now? Locks only save double work; results are right without them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dbrun.errors import Interrupted
from dbrun.store.disk import disk_errors

PAUSE = 0.2
"""Seconds between two tries."""


@contextmanager
def held(path: Path, what: str, *, waiting: Callable[[str], None] = lambda text: None,
         stopping: Callable[[], int] = lambda: 0) -> Iterator[bool]:
    """Hold the lock at path inside the block; yields whether another process had it first.

    what: written into the lock, for those who wait. waiting: told once who holds it. Raises Interrupted when
    a signal comes while waiting. A file system without locks is taken as it is.
    """
    with disk_errors(f"locking {what}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        waited = False
        while not _taken(handle):
            if not waited:
                waiting(_holder(handle))
            waited = True
            if signum := stopping():
                raise Interrupted(signum)
            time.sleep(PAUSE)
        _sign(handle, f"process {os.getpid()} on {os.uname().nodename} ({what})")
        yield waited
    finally:
        os.close(handle)


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _sign(handle: int, text: str) -> None:
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)
    except OSError:
        return


def _holder(handle: int) -> str:
    try:
        return os.pread(handle, 200, 0).decode(errors="replace") or "another process"
    except OSError:
        return "another process"
