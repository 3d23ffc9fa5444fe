"""Where do results live, and is the result of this key there and sound?"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dbrun.stages.support.amounts import Amounts
from dbrun.store import locks
from dbrun.store.atomic import disk_errors, entries, fresh_name, is_orphan, remove, replace_file
from dbrun.store.checksummed_json import marked
from dbrun.store.digests import Digests
from dbrun.store.json_cache import Table
from dbrun.store.objects import Objects, sha256_of, wrong
from dbrun.store.traces import Trace, Traces

Depth = Literal["sizes", "digests", "bytes"]
"""How closely a result is looked at: its files' sizes; their digests too, as far as a file can have changed since it
was last read; or all of their bytes, as the disk gives them now."""


@dataclass(frozen=True)
class Damage:
    """A trace stands, its artifact does not. lines: what is wrong with it."""

    trace: Trace
    lines: tuple[str, ...]


class Store:
    """The folder of results, usually `.dbrun/`; it comes to be when something is first written."""

    def __init__(self, root: Path) -> None:
        self.root = root = root.absolute()
        self.scratch = root / "tmp"
        self.runs = root / "runs"
        self.objects = Objects(root / "objects", root / "quarantine")
        self.traces = Traces(root / "traces", self.scratch)
        self.digests = Digests(Table(root / "digests.table", self.scratch))
        self.screened: Table[dict[str, object]] = Table(root / "screened.table", self.scratch)
        self.looks: Table[dict[str, object]] = Table(root / "looks.table", self.scratch)
        self.commits: Table[str] = Table(root / "commits.table", self.scratch)

    def save_tables(self) -> None:
        """Keep what was learnt about files for the next command, if the store is there."""
        if self.root.is_dir():
            for table in (self.digests, self.screened, self.looks, self.commits):
                table.save()

    @property
    def read_only(self) -> bool:
        """Whether it is there and serves what it has, but takes nothing: another's, or on a mount for reading."""
        return self.root.is_dir() and not os.access(self.root, os.W_OK)

    def prepare(self) -> None:
        """Make the store's folder, hidden from git, and clear what dead processes left in it."""
        if self.read_only:
            return
        with disk_errors(f"opening the store {self.root}"):
            self.scratch.mkdir(parents=True, exist_ok=True)
            ignore = self.root / ".gitignore"
            if not ignore.exists():
                replace_file(ignore, b"*\n", scratch=self.scratch)
            for entry in os.scandir(self.scratch):
                if is_orphan(entry.name):
                    remove(Path(entry.path))

    def fresh(self) -> Path:
        """A new empty folder on the store's file system."""
        folder = self.scratch / fresh_name()
        with disk_errors("making a folder in the store"):
            folder.mkdir(parents=True)
        return folder

    def work(self, lineage: str) -> Path:
        """The folder of unfinished work of this lineage; it may not be there."""
        return self.root / "work" / lineage

    def lock(self, name: str, what: str, waiting: Callable[[str], None],
             stopping: Callable[[], int]) -> AbstractContextManager[locks.Lock | None]:
        """Hold a lock of this name; see `locks.held`. A store that takes nothing needs none."""
        if self.read_only:
            return nullcontext()
        return locks.held(self.root / "locks" / f"{name}.lock", what, waiting=waiting, stopping=stopping)

    def lock_files(self) -> list[Path]:
        """The files of all locks that were ever held, but for the one that `using` and `alone` share."""
        return [path for path in entries(self._gate.parent) if path != self._gate]

    def using(self) -> AbstractContextManager[None]:
        """Inside the block no gc takes anything away. For moments: looking a result up, publishing one."""
        return nullcontext() if self.read_only else locks.shared(self._gate)

    def alone(self, what: str) -> AbstractContextManager[locks.Lock]:
        """Inside the block nobody is `using` the store."""
        return locks.held(self._gate, what, pause=0.01)

    @property
    def _gate(self) -> Path:
        return self.root / "locks" / "gc.lock"

    def replace(self, name: str, document: object, *, durable: bool = False) -> None:
        """Put a JSON document at a path inside the store, in one move."""
        self._put(name, json.dumps(document).encode(), durable)

    def replace_marked(self, name: str, document: Mapping[str, object], *, durable: bool = False) -> None:
        """The same, so that a changed byte in it is found when it is read."""
        self._put(name, marked(document), durable)

    def _put(self, name: str, data: bytes, durable: bool) -> None:
        replace_file(self.root / name, data, scratch=self.scratch, durable=durable)

    def look(self, stage: str, key: str, depth: Depth = "sizes") -> Trace | Damage | None:
        """What stands under this key, and whether its files are whole, looked at as closely as depth says."""
        trace = self.traces.read(stage, key)
        if trace is None:
            return None
        reading = {"sizes": None, "digests": self.digests.of, "bytes": sha256_of}[depth]
        lines = wrong(self.objects.path(trace.digest), trace.files, reading)
        return Damage(trace, tuple(lines)) if lines else trace

    def publish(self, stage: str, key: str, document: Mapping[str, object], folder: Path, *, seconds: float,
                durable: bool = True, items: Iterable[str] = (), memory: int = 0, share: float = 1.0,
                startup: float | None = None, amounts: Amounts | None = None) -> Trace:
        """Make a finished folder the result of this key: first the artifact, then the trace.

        Killed at any point, the store holds either all of it or nothing that counts. items and what
        follows: see `Trace`.
        """
        with self.using(), disk_errors(f"keeping the result of {stage}"):
            digest, files = self.objects.publish(folder, durable=durable)
            trace = Trace(stage=stage, key=key, digest=digest, files=files, document=document,
                          created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                          seconds=round(seconds, 3), items=tuple(sorted(items)), memory=memory, share=round(share, 6),
                          startup=None if startup is None else round(startup, 3), amounts=amounts)
            self.traces.write(trace, durable=durable)
        return trace


def store_at_hand() -> Store:
    """The store of the current folder: `$DBRUN_STORE`, or `.dbrun`."""
    return Store(Path(os.environ.get("DBRUN_STORE") or ".dbrun"))
