"""Where do results live, and is the result of this key there and sound?"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from dbrun.store import locks
from dbrun.store.digests import Digests
from dbrun.store.disk import disk_errors, fresh_name, is_orphan, remove, replace_file
from dbrun.store.objects import Objects, wrong
from dbrun.store.table import Table
from dbrun.store.traces import Trace, Traces


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
        self.commits: Table[str] = Table(root / "commits.table", self.scratch)

    def save_tables(self) -> None:
        """Keep what was learnt about files for the next command, if the store is there."""
        if self.root.is_dir():
            for table in (self.digests, self.screened, self.commits):
                table.save()

    def prepare(self) -> None:
        """Make the store's folder, hidden from git, and clear what dead processes left in it."""
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
             stopping: Callable[[], int]) -> AbstractContextManager[bool]:
        """Hold a lock of this name; see `locks.held`."""
        return locks.held(self.root / "locks" / f"{name}.lock", what, waiting=waiting, stopping=stopping)

    def replace(self, name: str, document: object, *, durable: bool = False) -> None:
        """Put a JSON document at a path inside the store, in one move."""
        replace_file(self.root / name, json.dumps(document).encode(), scratch=self.scratch, durable=durable)

    def look(self, stage: str, key: str, *, deep: bool = False) -> Trace | Damage | None:
        """What stands under this key, after a cheap check that all its files are there in the right size.

        deep: and with the right bytes, read again only where a file can have changed; for what is going to be used.
        """
        trace = self.traces.read(stage, key)
        if trace is None:
            return None
        lines = wrong(self.objects.path(trace.digest), trace.files, self.digests.of if deep else None)
        return Damage(trace, tuple(lines)) if lines else trace

    def publish(self, stage: str, key: str, document: Mapping[str, object], folder: Path, *, seconds: float,
                durable: bool = True) -> Trace:
        """Make a finished folder the result of this key: first the artifact, then the trace.

        Killed at any point, the store holds either all of it or nothing that counts.
        """
        with disk_errors(f"keeping the result of {stage}"):
            digest, files = self.objects.publish(folder, durable=durable)
            trace = Trace(stage=stage, key=key, digest=digest, files=files, document=document,
                          created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                          seconds=round(seconds, 3))
            self.traces.write(trace, durable=durable)
        return trace


def store_at_hand() -> Store:
    """The store of the current folder: `$DBRUN_STORE`, or `.dbrun`."""
    return Store(Path(os.environ.get("DBRUN_STORE") or ".dbrun"))
