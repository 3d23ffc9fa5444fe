"""Who works on this right now? Locks only save double work; results are right without them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dbrun.errors import Interrupted
from dbrun.store.atomic import disk_errors

PAUSE = 0.2
"""Seconds between two tries, and between two notes of how far the work is."""


@dataclass
class Lock:
    """A lock that is held. waited: whether another process had it first; what: the work, for those who wait."""

    what: str
    waited: bool
    _handle: int
    _signed: float = -PAUSE

    def at(self, place: str = "") -> None:
        """Write into the lock who holds it and how far the work is, such as "step 12 of 300"; not more than needed."""
        now = time.monotonic()
        if now - self._signed < PAUSE:
            return
        self._signed = now
        where = f"{self.what}, {place}" if place else self.what
        try:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"process {os.getpid()} on {os.uname().nodename} ({where})".encode(), 0)
        except OSError:
            return


@contextmanager
def held(path: Path, what: str, *, waiting: Callable[[str], None] = lambda text: None,
         stopping: Callable[[], int] = lambda: 0, pause: float = PAUSE) -> Iterator[Lock]:
    """Hold the lock at path inside the block.

    what: written into the lock, for those who wait. waiting: told once who holds it. Raises Interrupted when
    a signal comes while waiting. A file system without locks is taken as it is.
    """
    with disk_errors(f"locking {what}"):
        handle = _opened(path)
    try:
        waited = False
        while not _taken(handle):
            if not waited:
                waiting(_holder(handle))
            waited = True
            if signum := stopping():
                raise Interrupted(signum)
            time.sleep(pause)
        lock = Lock(what, waited, handle)
        lock.at()
        yield lock
    finally:
        os.close(handle)


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Be one of many inside the block, while nobody holds the lock at path alone."""
    with disk_errors("locking the store"):
        handle = _opened(path)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def idle(path: Path) -> bool:
    """Whether nobody holds the lock at path at this moment."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return _taken(handle)
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        # another user's, in a store that several share: it can be held, not signed
        return os.open(path, os.O_RDONLY)


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _holder(handle: int) -> str:
    try:
        return os.pread(handle, 200, 0).decode(errors="replace") or "another process"
    except OSError:
        return "another process"
