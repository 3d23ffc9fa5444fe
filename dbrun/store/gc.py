"""What can go, and how does it go without a live run noticing?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dbrun.store.atomic import disk_errors, entries, is_foreign, is_orphan, remove, size
from dbrun.store.locks import idle
from dbrun.store.runs import SILENT, Run, runs
from dbrun.store.store import Store
from dbrun.store.usage import Room, Wanted, artifacts, wanted

KEEP = 3
"""Runs of each name whose results are kept, if nothing else is said."""


@dataclass(frozen=True)
class Sweep:
    """What a gc found. kept: the runs whose results stay; gone: what went, or would go, by kind."""

    kept: tuple[Run, ...]
    gone: Mapping[str, Room]

    @property
    def bytes(self) -> int:
        """The room that it makes."""
        return sum(room.bytes for room in self.gone.values())

    def as_json(self) -> dict[str, object]:
        """The same as plain data."""
        return {"format_version": 1, "kept": [run.id for run in self.kept], "bytes": self.bytes,
                "gone": {kind: {"count": room.count, "bytes": room.bytes} for kind, room in self.gone.items()}}


def sweep(store: Store, keep: int, *, dry_run: bool) -> Sweep:
    """Take away what no pinned and no live run, and none of the last `keep` runs of each name, wants.

    Runs may go on meanwhile: what they look up or publish they do while this waits, and what they asked for they
    have noted before. Everything leaves its place at once, traces before what they stand for; only then is it deleted.
    Where locks do not work, a run may come to miss a result that it was just about to share; the same command
    makes it again.
    """
    if dry_run or not store.root.is_dir():
        return _found(store, keep)[0]
    trash = store.fresh()
    try:
        with disk_errors(f"clearing the store {store.root}"), store.alone("gc"):
            found, gone = _found(store, keep)
            for number, path in enumerate(path for paths in gone.values() for path in paths):
                with suppress(FileNotFoundError):
                    path.rename(trash / str(number))
            for folder in {path.parent for kind in ("results", "items", "artifacts") for path in gone.get(kind, ())}:
                with suppress(OSError):
                    folder.rmdir()
    finally:
        remove(trash)
    return found


def kept_runs(every: list[Run], keep: int) -> list[Run]:
    """Pinned and live ones, and the newest of each name."""
    seen: dict[str, int] = {}
    kept = []
    for run in every:
        seen[run.name] = seen.get(run.name, 0) + 1
        if run.pinned or run.live or seen[run.name] <= keep:
            kept.append(run)
    return kept


def _found(store: Store, keep: int) -> tuple[Sweep, dict[str, list[Path]]]:
    # listed before the runs are asked: what is published meanwhile is not on the list
    listed = {"artifacts": list(artifacts(store)), "work": entries(store.root / "work")}
    traces = list(store.traces.all())
    every = runs(store)
    kept = kept_runs(every, keep)
    gone = dict(_unwanted(store, wanted(store, kept), listed, traces))
    gone["runs"] = [run.folder for run in every if run not in kept]
    gone["quarantine"] = entries(store.root / "quarantine")
    gone["leftovers"] = [path for path in entries(store.scratch) if _left(path)]
    gone["locks"] = [path for path in store.lock_files() if _old(path) and idle(path)]
    rooms = {kind: Room(len(paths), sum(map(size, paths))) for kind, paths in gone.items() if paths}
    return Sweep(tuple(kept), rooms), gone


def _unwanted(store: Store, want: Wanted, listed: Mapping[str, list[Path]],
              traces: list[tuple[str, str, Path]]) -> Iterator[tuple[str, list[Path]]]:
    """By kind, in the order in which it may go."""
    unwanted = [(stage, path) for stage, key, path in traces if (stage, key) not in want.traces]
    yield "results", [path for stage, path in unwanted if not stage.endswith(".item")]
    yield "items", [path for stage, path in unwanted if stage.endswith(".item")]
    yield "artifacts", [path for path in listed["artifacts"] if path.name not in want.digests]
    yield "work", [path for path in listed["work"] if path.name not in want.work]


def _left(path: Path) -> bool:
    """Whether something temporary has no owner any more; another machine's, once it is old."""
    return _old(path) if is_foreign(path.name) else is_orphan(path.name)


def _old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > SILENT
    except OSError:
        return False
