"""Atomic writes: a crash leaves the old bytes or the new ones, and a full disk becomes a clear error."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from dbrun.errors import DbrunError, StageFailed
from dbrun.fsync import fsync_path

ERRNO_MESSAGES = {
    errno.ENOSPC: ("the disk is full", "free some space, then run the same command again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, then run the same command again"),
    errno.EROFS: ("the file system is read-only", "choose another place; DBRUN_STORE moves the store"),
    errno.EACCES: ("permission denied", "make it writable, or choose another place; DBRUN_STORE moves the store"),
    errno.EPERM: ("permission denied", "make it writable, or choose another place; DBRUN_STORE moves the store"),
    errno.EIO: ("the disk reports an input/output error", "check the disk; finished work is kept"),
    errno.EFBIG: ("the file is larger than this system allows", "raise the limit on file sizes (ulimit -f)"),
    errno.EMFILE: ("too many open files", "raise the limit on open files (ulimit -n)"),
}
"""errno → what is wrong, and what to do."""


def explain_os_error(error: OSError, doing: str) -> DbrunError:
    """A StageFailed with what was being done, what the system answered, and what to do. doing: "writing FILE"."""
    words, fix = ERRNO_MESSAGES.get(error.errno or 0, (error.strerror or str(error), None))
    where = f" ({error.filename})" if error.filename else ""
    return StageFailed(f"{doing}: {words}{where}", fix=fix)


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Context manager: turn each OSError into a StageFailed. doing: what the block does, such as "writing FILE"."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, doing) from error


@cache
def host_id() -> str:
    """A short hash of this machine and its process namespace; within one, a process id means one process."""
    try:
        # Containers on one host share a host name at times, but never a pid namespace.
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return hashlib.sha256(f"{os.uname().nodename} {space}".encode()).hexdigest()[:8]


TEMP_NAME = re.compile(r"[0-9a-f]{8}-\d+-([0-9a-f]{0,8}\.)?[0-9a-f]{12}")
"""Form of the names that `temp_name` makes; those of earlier versions have no start and no dot."""


def temp_name() -> str:
    """A new name `<host>-<process id>-<start>.<random>`; a later run can tell from it whether the owner is alive."""
    pid = os.getpid()
    return f"{host_id()}-{pid}-{_own_start(pid)}.{os.urandom(6).hex()}"


# by process id, because a fork is another process
@cache
def _own_start(pid: int) -> str:
    return process_start(pid)


def process_start(pid: int) -> str:
    """A short hash of when a process began, on this boot of the machine; empty where the system does not tell.

    A process id alone is given out again after a while, and after a reboot soon.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # proc(5): field 22, in ticks since the boot; field 2, the program's name in brackets, may hold blanks
        ticks = status.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
    return hashlib.sha256(f"{boot} {ticks}".encode()).hexdigest()[:8]


def is_foreign(name: str) -> bool:
    """Whether a temporary name was made on another machine, or is not a name of `temp_name` at all."""
    parts = name.split("-")
    return len(parts) != 3 or parts[0] != host_id() or not parts[1].isdecimal()


def is_orphan(name: str) -> bool:
    """Whether a temporary name was made by a process of this machine that no longer exists."""
    if is_foreign(name):
        return False
    _, pid, rest = name.split("-")
    try:
        # Signal 0 is never delivered; it only asks whether the process exists.
        os.kill(int(pid), 0)
    # OverflowError: no process id is that long
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        # Another user's process (EPERM): it exists.
        pass
    # Names of earlier versions have no start, and some systems tell none.
    began, dot, _ = rest.partition(".")
    now = process_start(int(pid))
    return bool(dot and began and now) and began != now


def umask() -> int:
    """The process's umask."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    found = re.search(r"^Umask:\s+([0-7]+)$", status, re.MULTILINE)
    if found:
        return int(found[1], 8)
    # Other systems have no call that reads it without setting it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_umask_lock = threading.Lock()
_umask_before: list[int] = []
"""The process's umask before each open `no_world_write`; the first is the user's."""


@contextmanager
def no_world_write() -> Iterator[None]:
    """Context manager: nothing written inside is writable for all users, whatever the umask allows."""
    # The process has one umask for all its threads: the last one to leave gives the user's back.
    with _umask_lock:
        _umask_before.append(os.umask(umask() | 0o002))
    try:
        yield
    finally:
        with _umask_lock:
            last = _umask_before.pop()
            if not _umask_before:
                os.umask(last)


def replace_file(path: Path, data: bytes, *, scratch: Path, durable: bool = True) -> None:
    """Write data to path atomically: a crash leaves the old file or the new one.

    scratch: a folder on the same file system, for the unfinished file; durable: survive a power cut, too.
    Raises OSError.
    """
    for folder in (scratch, path.parent):
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
    unfinished = scratch / temp_name()
    try:
        with unfinished.open("xb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        unfinished.rename(path)
    # BaseException: Ctrl-C must leave no scratch file, either.
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    # The new name is in the folder's data, which has to reach the disk, too.
    if durable:
        fsync_path(path.parent)


def list_dir(folder: Path) -> list[Path]:
    """The paths in a folder, sorted; empty if the folder does not exist or disappears meanwhile."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def disk_usage(path: Path) -> int:
    """Bytes on the disk of a file, or of a folder with its content; 0 if it does not exist."""
    try:
        # Blocks, not size: small files take a whole block. The unit is 512 bytes on every file system (stat(2)).
        own = path.lstat().st_blocks * 512
        if path.is_symlink() or not path.is_dir():
            return own
        with os.scandir(path) as inside:
            return own + sum(disk_usage(Path(entry.path)) for entry in inside)
    except OSError:
        return 0


def remove_tree(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists. Files may be read-only; errors are ignored."""
    # Imported here: most commands remove nothing, and shutil brings compression libraries with it.
    import shutil

    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return
    except FileNotFoundError:
        return
    shutil.rmtree(path, ignore_errors=True)
