"""File locks: they avoid double work only; results are right without them."""

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
"""Seconds between two attempts to get a lock, and between two progress notes in its file."""


@dataclass
class Lock:
    """A lock that this process holds.

    purpose: the work it protects, shown to processes that wait; waited: whether another process had it first.
    """

    purpose: str
    waited: bool
    _handle: int
    _last_written: float = -POLL_INTERVAL

    def report_progress(self, place: str = "") -> None:
        """Write the holder and its progress into the lock file, at most once per POLL_INTERVAL.

        place: the progress, such as "step 12 of 300".
        """
        now = time.monotonic()
        if now - self._last_written < POLL_INTERVAL:
            return
        self._last_written = now
        where = f"{self.purpose}, {place}" if place else self.purpose
        text = f"process {os.getpid()} on {os.uname().nodename} ({where})"
        # In place, not by rename: the lock belongs to the inode, and a new file would be unlocked.
        try:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, text.encode(), 0)
        except OSError:
            return


@contextmanager
def exclusive_lock(path: Path, what: str, *, on_wait: Callable[[str], None] = lambda text: None,
                   stop_signal: Callable[[], int] = lambda: 0, pause: float = POLL_INTERVAL) -> Iterator[Lock]:
    """Context manager: hold the lock at path alone.

    what: the work, written into the lock file for processes that wait; on_wait: called once with the holder if the
    lock is taken; stop_signal: returns a signal's number, or 0; pause: seconds between two attempts.
    Raises Interrupted if a signal arrives while waiting. On a file system without locks nothing is locked.
    """
    with disk_errors(f"locking {what}"):
        handle = _open_file(path)
    try:
        waited = False
        # Polling, because a blocking flock could neither be interrupted by our signal flag nor tell who holds it.
        while not _try_lock(handle):
            if not waited:
                on_wait(_holder(handle))
            waited = True
            signum = stop_signal()
            if signum:
                raise Interrupted(signum)
            time.sleep(pause)
        lock = Lock(what, waited, handle)
        lock.report_progress()
        yield lock
    finally:
        os.close(handle)


@contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Context manager: hold the lock at path together with other shared holders; waits for an exclusive one."""
    with disk_errors("locking the store"):
        handle = _open_file(path)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def is_unlocked(path: Path) -> bool:
    """Whether no process holds the lock at path at this moment; False if the file cannot be opened."""
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
        # Another user's lock file in a shared store: it can be locked, but not written to.
        return os.open(path, os.O_RDONLY)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks (some network mounts): go on, at worst work is done twice.
        return True
    return True


def _holder(handle: int) -> str:
    try:
        return os.pread(handle, 200, 0).decode(errors="replace") or "another process"
    except OSError:
        return "another process"
