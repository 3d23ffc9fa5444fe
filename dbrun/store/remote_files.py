"""Files below a URL, through fsspec: every call is bounded in time, and every failure is a RemoteError."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from dbrun.errors import Interrupted
from dbrun.secrets import redact_secrets

T = TypeVar("T")

STALL_SECONDS = 15.0
"""Seconds without a sign of life after which a call is given up: what a dead server costs."""
SLOWEST_BYTES_PER_SECOND = 2**20
"""Bytes per second below which a transfer is given up; computing is then often the faster way."""
SILENT_BYTES_PER_SECOND = 8 * 2**20
"""Bytes per second of backends that report nothing during a transfer, for the patience with large files."""
THREADS = 8
"""Files that are transferred at once: for small ones the time of an answer counts, not the bytes."""
PART_BYTES = 8 * 2**20
"""Bytes of a part of an upload to S3, of which a few are in memory at a time."""
POLL_INTERVAL = 0.02
"""Seconds between two looks whether a call is done, and whether a signal came."""
OPTIONS: dict[str, dict[str, Any]] = {
    # listings are never kept, since other machines write here; botocore waits a minute by default
    "s3": {"use_listings_cache": False,
           "config_kwargs": {"connect_timeout": 5, "read_timeout": 12, "retries": {"total_max_attempts": 2}}},
    "file": {"auto_mkdir": True},
}
"""Protocol → options of its file system in fsspec."""
UNREACHABLE = re.compile(r"Timeout|TimedOut|Connect|Endpoint|Disconnected|Resolver")
"""Names of exceptions of clients that say that no server answered; each client has its own."""
TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")
"""Where backends of fsspec write when a file was last written."""


class RemoteError(Exception):
    """A call to the remote store failed; the text says why. is_unreachable: nothing answered."""

    def __init__(self, text: str, *, is_unreachable: bool = False) -> None:
        super().__init__(text)
        self.is_unreachable = is_unreachable


class RemoteMissing(RemoteError):
    """There is no such file."""


class DamagedFile(RemoteError):
    """A file arrived with other bytes than its name says."""


@dataclass(frozen=True)
class RemoteFile:
    """A file in a listing. name: relative to the URL; size: in bytes; written: seconds since 1970, None if unknown."""

    name: str
    size: int
    written: float | None


@dataclass
class _Calls(Generic[T]):
    """Calls that threads take from a queue. alive: the time of the last sign of life; given_up: end at the next one."""

    waiting: deque[tuple[int, Callable[[Callable[[int], None]], T]]]
    results: dict[int, T] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)
    alive: float = field(default_factory=time.monotonic)
    given_up: bool = False

    def work(self) -> None:
        """Make calls until none is left or one has failed."""
        while not self.errors and not self.given_up:
            try:
                place, call = self.waiting.popleft()
            except IndexError:
                return
            try:
                self.results[place] = call(self.progress)
            # any exception of a client, and of an event loop that was stopped
            except BaseException as error:
                self.errors.append(error)

    def progress(self, count: int = 0) -> None:
        """Note a sign of life. Raises TimeoutError once nobody waits for the calls any more."""
        self.alive = time.monotonic()
        if self.given_up:
            raise TimeoutError


class RemoteFiles:
    """The files below a URL such as s3://bucket/prefix. All names are relative to it, with `/` between their parts.

    stop_signal: the number of a signal that ends downloads, or 0.
    """

    def __init__(self, url: str, stop_signal: Callable[[], int] = lambda: 0) -> None:
        self.protocol = url.partition("://")[0]
        self._fs, self._root = _client(url, os.getpid())
        self.stop_signal = stop_signal

    def read(self, names: Sequence[str], max_bytes: int) -> list[bytes | None]:
        """The bytes of small files, None for each that does not exist.

        Raises RemoteError, also where one has more than max_bytes.
        """
        def read(name: str) -> Callable[[Callable[[int], None]], bytes | None]:
            def call(progress: Callable[[int], None]) -> bytes | None:
                try:
                    # one byte more, to notice a longer one
                    data = bytes(self._fs.cat_file(self._path(name), start=0, end=max_bytes + 1))
                except FileNotFoundError as error:
                    if isinstance(_explain(error, self._root), RemoteMissing):
                        return None
                    raise
                progress(len(data))
                if len(data) > max_bytes:
                    raise RemoteError(f"a file has more than {max_bytes:,} bytes")
                return data

            return call

        return self._run([read(name) for name in names], 0)

    def download(self, files: Sequence[tuple[str, Path, int]]) -> None:
        """Copy files here. files: name, path to write and size in bytes of each. Raises RemoteError, Interrupted."""
        def copy(name: str, path: Path, size: int) -> Callable[[Callable[[int], None]], None]:
            def call(progress: Callable[[int], None]) -> None:
                self._fs.get_file(self._path(name), str(path), callback=_callback(progress, size))

            return call

        total = sum(size for _, _, size in files)
        self._run([copy(*file) for file in files], total, stops=True)

    def upload(self, files: Sequence[tuple[Path, str, int]]) -> None:
        """Copy files there. files: path, name and size in bytes of each. Raises RemoteError."""
        further = {"chunksize": PART_BYTES} if self.protocol == "s3" else {}

        def copy(path: Path, name: str, size: int) -> Callable[[Callable[[int], None]], None]:
            def call(progress: Callable[[int], None]) -> None:
                self._fs.put_file(str(path), self._path(name), callback=_callback(progress, size), **further)

            return call

        total = sum(size for _, _, size in files)
        # a signal does not stop it: the checkpoint that is saved because of the signal goes this way
        self._run([copy(*file) for file in files], total)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file. Raises RemoteError."""
        def call(progress: Callable[[int], None]) -> None:
            path = self._path(name)
            if self.protocol == "file":
                self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, data)

        self._run([call], len(data))

    def find(self, folder: str) -> list[RemoteFile]:
        """All files below a folder, sorted; empty if there is none. Raises RemoteError."""
        def call(progress: Callable[[int], None]) -> dict[str, Any]:
            return dict(self._fs.find(self._path(folder), detail=True))

        try:
            found, = self._run([call], 0, patience=4.0)
        except RemoteMissing:
            return []
        return sorted(self._files(found), key=lambda file: file.name)

    def look(self, names: Sequence[str]) -> list[RemoteFile | None]:
        """What is known of files, None for each that does not exist. Raises RemoteError."""
        def look(name: str) -> Callable[[Callable[[int], None]], RemoteFile | None]:
            def call(progress: Callable[[int], None]) -> RemoteFile | None:
                try:
                    info = self._fs.info(self._path(name))
                except FileNotFoundError:
                    return None
                progress(0)
                # object stores have no folders: below a name there may be others
                return _remote_file(name, info) if info.get("type") == "file" else None

            return call

        return self._run([look(name) for name in names], 0)

    def remove(self, names: Sequence[str]) -> None:
        """Remove files; those that do not exist are passed over. Raises RemoteError."""
        def remove(name: str) -> Callable[[Callable[[int], None]], None]:
            def call(progress: Callable[[int], None]) -> None:
                with suppress(FileNotFoundError):
                    self._fs.rm_file(self._path(name))
                progress(0)

            return call

        self._run([remove(name) for name in names], 0)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _files(self, found: dict[str, Any]) -> Iterator[RemoteFile]:
        for path, info in found.items():
            name = str(path).removeprefix(self._root).lstrip("/")
            if info.get("type") == "file":
                yield _remote_file(name, info)

    def _run(self, calls: Sequence[Callable[[Callable[[int], None]], T]], size: int, *, stops: bool = False,
             patience: float = 1.0) -> list[T]:
        """The results of the calls, which threads make. size: bytes that they transfer in all.

        stops: a signal ends them, with Interrupted; patience: a factor for STALL_SECONDS. Raises RemoteError.
        """
        # threads of our own and not an executor, which would wait at exit for calls that hang
        run: _Calls[T] = _Calls(deque(enumerate(calls)))
        threads = [threading.Thread(target=run.work, daemon=True) for _ in range(min(THREADS, len(calls)))]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        quiet = patience * STALL_SECONDS + size / SILENT_BYTES_PER_SECOND
        deadline = began + patience * STALL_SECONDS * max(1, len(calls)) + size / SLOWEST_BYTES_PER_SECOND
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(POLL_INTERVAL)
                    now = time.monotonic()
                    if now - run.alive > quiet or now > deadline:
                        raise RemoteError(f"no answer within {now - began:.0f} seconds", is_unreachable=True)
                    signum = self.stop_signal() if stops else 0
                    if signum:
                        raise Interrupted(signum)
        # BaseException: after Ctrl-C the threads must end, too
        except BaseException:
            run.given_up = True
            raise
        if run.errors:
            raise _explain(run.errors[0], self._root) from run.errors[0]
        return [run.results[place] for place in range(len(calls))]


# by process id, because the threads of a client do not survive a fork; kept, because each has connections of its own
@lru_cache(maxsize=8)
def _client(url: str, pid: int) -> tuple[Any, str]:
    """The file system of fsspec for a URL, and the path of the URL there."""
    from fsspec.core import url_to_fs

    # an instance of our own: one that other code uses too has other settings
    options = {"skip_instance_cache": True, **OPTIONS.get(url.partition("://")[0], {})}
    files, root = url_to_fs(url, **options)
    return files, str(root).rstrip("/")


def _callback(progress: Callable[[int], None], size: int) -> Any:
    """A Callback of fsspec that passes on signs of life, and refuses more bytes than a file can have."""
    from fsspec.callbacks import Callback

    class Watch(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            progress(inc)
            # a server that sends without end would fill the disk
            if self.value > size:
                raise DamagedFile("a file has more bytes than it should")

    return Watch()


def _explain(error: BaseException, root: str) -> RemoteError:
    """A RemoteError that says in a few words what a client's exception means. root: a place that is not to be told."""
    if isinstance(error, RemoteError):
        return error
    # it goes into records of runs, which are shown to others
    text = redact_secrets(str(error)).replace(root, "…").strip()
    # s3fs raises FileNotFoundError for a bucket that does not exist, too
    if isinstance(error, FileNotFoundError) and "bucket" not in text.lower():
        return RemoteMissing("a file is missing")
    if isinstance(error, FileNotFoundError):
        return RemoteError("the bucket does not exist")
    if isinstance(error, PermissionError):
        return RemoteError("access denied")
    name = type(error).__name__
    if isinstance(error, (TimeoutError, ConnectionError)) or UNREACHABLE.search(name):
        return RemoteError("it cannot be reached", is_unreachable=True)
    first_line = text.splitlines()[0][:200] if text else "no message"
    return RemoteError(f"{name}: {first_line}")


def _remote_file(name: str, info: dict[str, Any]) -> RemoteFile:
    times = [info[key] for key in TIMES if info.get(key)]
    return RemoteFile(name, int(info.get("size") or 0), _seconds(times[0]) if times else None)


def _seconds(value: object) -> float | None:
    """Seconds since 1970 of a time as a backend gives it: a number, a datetime or ISO 8601; None for anything else."""
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, (int, float)):
        return float(value)
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        return None
