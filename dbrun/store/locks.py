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

POLL_INTERVAL = 0.2
"""Seconds between two tries, and between two notes of how far the work is."""


@dataclass
class Lock:
    """A lock that is held. waited: whether another process had it first; purpose: the work, for those who wait."""

    purpose: str
    waited: bool
    _handle: int
    _last_written: float = -POLL_INTERVAL

    def report_progress(self, place: str = "") -> None:
        """Write into the lock who holds it and how far the work is, such as "step 12 of 300"; not more than needed."""
        now = time.monotonic()
        if now - self._last_written < POLL_INTERVAL:
            return
        self._last_written = now
        where = f"{self.purpose}, {place}" if place else self.purpose
        try:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"process {os.getpid()} on {os.uname().nodename} ({where})".encode(), 0)
        except OSError:
            return


@contextmanager
def exclusive_lock(path: Path, what: str, *, on_wait: Callable[[str], None] = lambda text: None,
                   stop_signal: Callable[[], int] = lambda: 0, pause: float = POLL_INTERVAL) -> Iterator[Lock]:
    """Hold the lock at path inside the block.

    what: written into the lock, for those who wait. on_wait: told once who holds it. Raises Interrupted when
    a signal comes while waiting. A file system without locks is taken as it is.
    """
    with disk_errors(f"locking {what}"):
        handle = _open_file(path)
    try:
        waited = False
        while not _try_lock(handle):
            if not waited:
                on_wait(_holder(handle))
            waited = True
            if signum := stop_signal():
                raise Interrupted(signum)
            time.sleep(pause)
        lock = Lock(what, waited, handle)
        lock.report_progress()
        yield lock
    finally:
        os.close(handle)


@contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Be one of many inside the block, while nobody holds the lock at path alone."""
    with disk_errors("locking the store"):
        handle = _open_file(path)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def is_unlocked(path: Path) -> bool:
    """Whether nobody holds the lock at path at this moment."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return _try_lock(handle)
    finally:
        os.close(handle)


def _open_file(path: Path) -> int:
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        # another user's, in a store that several share: it can be held, not signed
        return os.open(path, os.O_RDONLY)


def _try_lock(handle: int) -> bool:
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
