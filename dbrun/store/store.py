"""The store of results: looks up the result of a key, checks it, and publishes new ones."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from dbrun.errors import UsageError
from dbrun.input_file import undecodable
from dbrun.store import locks
from dbrun.store.atomic import disk_errors, is_orphan, list_dir, remove_tree, replace_file, temp_name
from dbrun.store.checksummed_json import dump_checksummed
from dbrun.store.digests import FileDigests
from dbrun.store.json_cache import JsonCache
from dbrun.store.objects import Objects, confirm_damage, sha256_of
from dbrun.store.traces import Trace, Traces
from dbrun.workload import Workload

if TYPE_CHECKING:
    from dbrun.store.remote import RemoteStore

URL_VARIABLE = "DBRUN_REMOTE"
"""Environment variable with the URL of the remote store."""

T = TypeVar("T")
CheckDepth = Literal["sizes", "digests", "bytes"]
"""How closely a stored result is checked: sizes of its files; digests, cached for files that have not changed since
they were last read; or every byte, read from the disk now."""


@dataclass(frozen=True)
class Damage:
    """A result whose artifact is missing or damaged. trace: the intact trace; lines: what is wrong, one each."""

    trace: Trace
    lines: tuple[str, ...]


class Store:
    """The folder of results, usually `.dbrun/`. It is created when something is first written.

    remote: the store behind it that several machines share, None for none.
    """

    def __init__(self, root: Path, remote: RemoteStore | None = None) -> None:
        # The file names of tables are part of the store's format: `screened` and `looks` are older words.
        self.root = root = root.absolute()
        self.remote = remote
        self.scratch = root / "tmp"
        self.runs = root / "runs"
        self.objects = Objects(root / "objects", root / "quarantine")
        self.traces = Traces(root / "traces", self.scratch)
        self.digests = FileDigests(JsonCache(root / "digests.table", self.scratch))
        self.image_checks: JsonCache[dict[str, object]] = JsonCache(root / "screened.table", self.scratch)
        self.image_quality: JsonCache[dict[str, object]] = JsonCache(root / "looks.table", self.scratch)
        self.commits: JsonCache[str] = JsonCache(root / "commits.table", self.scratch)
        self.memory_counts: JsonCache[dict[str, int]] = JsonCache(root / "memory.table", self.scratch)
        self._remembered: dict[str, Any] | None = None

    def save_caches(self) -> None:
        """Write the tables of facts about files and Hub commits for the next command, if the store exists."""
        if self.root.is_dir() and self._remembered is None:
            for table in (self.digests, self.image_checks, self.image_quality, self.commits, self.memory_counts):
                table.save()

    @contextmanager
    def planning_many(self) -> Iterator[None]:
        """Context manager: many recipes are planned inside.

        `remember` makes equal things once, and the tables are written at the end only: each is written whole, so
        thousands of recipes that each add a few entries would take quadratic time.
        """
        self._remembered = {}
        try:
            yield
        finally:
            self._remembered = None
            self.save_caches()

    def remember(self, key: str, make: Callable[[], T]) -> T:
        """What make() returns; inside `planning_many` it is made once for equal keys. Raises what make() raises."""
        if self._remembered is None:
            return make()
        if key not in self._remembered:
            self._remembered[key] = make()
        made: T = self._remembered[key]
        return made

    @property
    def read_only(self) -> bool:
        """Whether the store exists but cannot be written: another user's, or on a read-only mount."""
        return self.root.is_dir() and not os.access(self.root, os.W_OK)

    def prepare(self) -> None:
        """Create the store's folder, ignored by git, and remove scratch folders of dead processes."""
        if self.read_only:
            return
        with disk_errors(f"opening the store {self.root}"):
            self.scratch.mkdir(parents=True, exist_ok=True)
            ignore = self.root / ".gitignore"
            if not ignore.exists():
                replace_file(ignore, b"*\n", scratch=self.scratch)
            for entry in os.scandir(self.scratch):
                if is_orphan(entry.name):
                    remove_tree(Path(entry.path))

    def make_temp_folder(self) -> Path:
        """A new empty folder on the store's file system, so that it can be published by a rename."""
        folder = self.scratch / temp_name()
        with disk_errors("making a folder in the store"):
            folder.mkdir(parents=True)
        return folder

    def work_folder(self, lineage: str) -> Path:
        """The folder of unfinished work (checkpoints, item list) under this resume key; it need not exist."""
        return self.root / "work" / lineage

    def lock(self, name: str, what: str, on_wait: Callable[[str], None],
             stop_signal: Callable[[], int]) -> AbstractContextManager[locks.Lock | None]:
        """Context manager: hold the lock of this name; see `locks.exclusive_lock`. Yields None if read-only."""
        if self.read_only:
            return nullcontext()
        return locks.exclusive_lock(self.root / "locks" / f"{name}.lock", what, on_wait=on_wait,
                                    stop_signal=stop_signal)

    def lock_files(self) -> list[Path]:
        """The files of all locks that were ever held, except the gc lock, which a gc holds while it asks."""
        return [path for path in list_dir(self._gc_lock.parent) if path != self._gc_lock]

    def shared_access(self) -> AbstractContextManager[None]:
        """Context manager: no gc removes anything inside. Keep it short: a gc waits for it."""
        return nullcontext() if self.read_only else locks.shared_lock(self._gc_lock)

    def exclusive_access(self, what: str) -> AbstractContextManager[locks.Lock]:
        """Context manager: no other process has `shared_access` inside. what: the work, for processes that wait."""
        # A short pause: shared access lasts moments, and a slow poll might never find a gap between two.
        return locks.exclusive_lock(self._gc_lock, what, pause=0.01)

    @property
    def _gc_lock(self) -> Path:
        return self.root / "locks" / "gc.lock"

    def write_json(self, name: str, document: object, *, durable: bool = False) -> None:
        """Write a JSON document atomically. name: its path relative to the store; durable: survive a power cut."""
        self._write(name, json.dumps(document).encode(), durable)

    def write_checksummed(self, name: str, document: Mapping[str, object], *, durable: bool = False) -> None:
        """Write a JSON document with a checksum atomically; `read_checksummed` finds a changed byte in it."""
        self._write(name, dump_checksummed(document), durable)

    def _write(self, name: str, data: bytes, durable: bool) -> None:
        replace_file(self.root / name, data, scratch=self.scratch, durable=durable)

    def look_up(self, stage: str, key: str, depth: CheckDepth = "sizes") -> Trace | Damage | None:
        """The result of a stage under this key: its trace if sound, Damage if not, None if there is none.

        depth: how closely the files are checked. Where they are to be read, a run fetches what is missing or damaged
        here from the remote store; all files are then in `objects`.
        """
        found = self.look_up_locally(stage, key, depth)
        if isinstance(found, Trace) or depth == "sizes" or not self._fetches:
            return found
        assert self.remote is not None
        if isinstance(found, Damage):
            # named by their content, so these are the very bytes that were lost
            if not self._fetch(found.trace):
                return found
            self.remote.tell(stage, f"the stored result is damaged ({found.lines[0]}); that of the remote store takes "
                             "its place", "warning")
            return found.trace
        trace = self.remote.read_trace(stage, key)
        return trace if trace is not None and self._fetch(trace) else None

    def look_up_locally(self, stage: str, key: str, depth: CheckDepth) -> Trace | Damage | None:
        """What `look_up` finds on this machine alone."""
        trace = self.traces.read(stage, key)
        if trace is None:
            return None
        sha256 = {"sizes": None, "digests": self.digests.sha256, "bytes": sha256_of}[depth]
        lines = confirm_damage(self.objects.path(trace.digest), trace.files, sha256)
        return Damage(trace, tuple(lines)) if lines else trace

    def remote_trace(self, stage: str, key: str, depth: CheckDepth = "sizes") -> Trace | None:
        """The trace in the remote store, where its word is enough: no file of the result is to be read now."""
        if self.remote is None or (self.remote.is_connected and depth != "sizes"):
            return None
        return self.remote.read_trace(stage, key)

    @property
    def _fetches(self) -> bool:
        """Whether results are fetched: only a run does; a command that reads neither downloads nor writes."""
        return self.remote is not None and self.remote.is_connected and not self.read_only

    def _fetch(self, trace: Trace) -> bool:
        """Copy a result from the remote store, and publish it here as one that was computed; False if that fails."""
        assert self.remote is not None
        folder, durable = self.make_temp_folder(), not trace.stage.endswith(".item")
        try:
            if not self.remote.download(trace, folder):
                return False
            with self.shared_access(), disk_errors(f"keeping the result of {trace.stage}"):
                # a damaged artifact of this digest is moved to the quarantine
                self.objects.publish(folder, durable=durable)
                self.traces.write(trace, durable=durable)
        finally:
            remove_tree(folder)
        return True

    def share(self, trace: Trace, *, is_new: bool = False) -> None:
        """Publish a result of this store in the remote one as well, if a run is connected to it for writing.

        is_new: this run has just computed it.
        """
        folder = self.objects.path(trace.digest)
        if self.remote is not None and self.remote.writes and not confirm_damage(folder, trace.files):
            self.remote.publish(trace, folder, is_new=is_new)

    def publish(self, stage: str, key: str, document: Mapping[str, object], folder: Path, *, seconds: float,
                durable: bool = True, items: Iterable[str] = (), memory: int = 0, share: float = 1.0,
                startup: float | None = None, amounts: Workload | None = None, baseline: int = 0) -> Trace:
        """Publish a finished folder as the result of this key; return its trace. items and later: see `Trace`.

        After a kill at any point the store holds the whole result, or nothing that counts as one.
        """
        with self.shared_access(), disk_errors(f"keeping the result of {stage}"):
            # The artifact must stand before the trace: the trace is the only mark that the stage is done.
            digest, files = self.objects.publish(folder, durable=durable)
            if startup is not None:
                startup = round(startup, 3)
            trace = Trace(stage=stage, key=key, digest=digest, files=files, document=document,
                          created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                          seconds=round(seconds, 3), items=tuple(sorted(items)), memory=memory, share=round(share, 6),
                          startup=startup, amounts=amounts, baseline=baseline)
            self.traces.write(trace, durable=durable)
        self.share(trace, is_new=True)
        return trace


def current_store(folder: str | os.PathLike[str] | None = None) -> Store:
    """The store in a folder, by default `$DBRUN_STORE`, or `.dbrun`. Raises UsageError for a path that is not UTF-8."""
    root = Path(folder or os.environ.get("DBRUN_STORE") or ".dbrun")
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current folder no longer exists", fix="cd to another one") from None
    # the current folder too: it is a part of the paths of the exports
    for folder in (here, here / root):
        shown = undecodable(str(folder))
        if shown is not None:
            raise UsageError(f"the folder {shown} has a name that is not UTF-8, and weights cannot be read there",
                             fix="rename it, or run dbrun in another folder")
    return Store(root)
