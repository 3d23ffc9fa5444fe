"""How do bytes reach the disk so that a crash leaves the old or the new, and a full disk is a clear word?"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from dbrun.errors import DbrunError, StageFailed
from dbrun.fsync import fsync_path

ERRNO_MESSAGES = {
    errno.ENOSPC: ("the disk is full", "free some space, then the same command goes on"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, then the same command goes on"),
    errno.EROFS: ("the file system is read-only", "choose another place; DBRUN_STORE moves the store"),
    errno.EACCES: ("permission denied", "make it writable, or choose another place; DBRUN_STORE moves the store"),
    errno.EPERM: ("permission denied", "make it writable, or choose another place; DBRUN_STORE moves the store"),
    errno.EIO: ("the disk reports an input/output error", "check the disk; what was finished before is kept"),
    errno.EFBIG: ("the file is larger than this system allows", "raise the limit on file sizes (ulimit -f)"),
    errno.EMFILE: ("too many open files", "raise the limit on open files (ulimit -n)"),
}


def explain_os_error(error: OSError, doing: str) -> DbrunError:
    """The error for people: what was being done, what the system answered, the way out."""
    words, fix = ERRNO_MESSAGES.get(error.errno or 0, (error.strerror or str(error), None))
    where = f" ({error.filename})" if error.filename else ""
    return StageFailed(f"{doing}: {words}{where}", fix=fix)


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn the system's errors inside the block into errors for people."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, doing) from error


@cache
def host_id() -> str:
    """A word for this machine and process space, in which a process id means one process."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return hashlib.sha256(f"{os.uname().nodename} {space}".encode()).hexdigest()[:8]


def temp_name() -> str:
    """A new name for something temporary, from which a later run can tell that its owner is gone."""
    return f"{host_id()}-{os.getpid()}-{os.urandom(6).hex()}"


def is_foreign(name: str) -> bool:
    """Whether something temporary of this name belongs to another machine, or to nobody known."""
    parts = name.split("-")
    return len(parts) != 3 or parts[0] != host_id() or not parts[1].isdigit()


def is_orphan(name: str) -> bool:
    """Whether something temporary of this name belongs to a process of this machine that is gone."""
    if is_foreign(name):
        return False
    try:
        os.kill(int(name.split("-")[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def umask() -> int:
    """The process's umask; the system has no way to ask for it without setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def no_world_write() -> Iterator[None]:
    """Let nothing that is written inside the block be writable for everyone, whatever the umask allows."""
    before = os.umask(umask() | 0o002)
    try:
        yield
    finally:
        os.umask(before)


def replace_file(path: Path, data: bytes, *, scratch: Path, durable: bool = True) -> None:
    """Put data at path in one move. scratch: a folder on the same file system for the unfinished file."""
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
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if durable:
        fsync_path(path.parent)


def list_dir(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing where it is not there, or goes while it is read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def disk_usage(path: Path) -> int:
    """Bytes that a file or a folder with all that is in it takes on the disk."""
    try:
        own = path.lstat().st_blocks * 512
        if path.is_symlink() or not path.is_dir():
            return own
        with os.scandir(path) as inside:
            return own + sum(disk_usage(Path(entry.path)) for entry in inside)
    except OSError:
        return 0


def remove_tree(path: Path) -> None:
    """Remove a file or a folder with all that is in it, read-only or not; what is gone already is fine."""
    import shutil

    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return
    except FileNotFoundError:
        return
    shutil.rmtree(path, ignore_errors=True)
