"""What can go, and how does it go without a live run noticing?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dbrun.store.atomic import disk_errors, disk_usage, is_foreign, is_orphan, list_dir, remove_tree
from dbrun.store.locks import is_unlocked
from dbrun.store.runs import STALE_SECONDS, Run, list_runs
from dbrun.store.store import Store
from dbrun.store.usage import DiskUsage, Reachable, artifact_folders, find_reachable

DEFAULT_KEEP = 3
"""Runs of each name whose results are kept, if nothing else is said."""


@dataclass(frozen=True)
class GcReport:
    """What a gc found. remaining_runs: the runs whose results stay; freed: what went, or would go, by kind."""

    remaining_runs: tuple[Run, ...]
    freed: Mapping[str, DiskUsage]

    @property
    def freed_bytes(self) -> int:
        """The room that it makes."""
        return sum(room.bytes for room in self.freed.values())

    def as_json(self) -> dict[str, object]:
        """The same as plain data."""
        return {"format_version": 1, "kept": [run.id for run in self.remaining_runs], "bytes": self.freed_bytes,
                "gone": {kind: {"count": room.count, "bytes": room.bytes} for kind, room in self.freed.items()}}


def collect_garbage(store: Store, keep: int, *, dry_run: bool) -> GcReport:
    """Take away what no pinned and no live run, and none of the last `keep` runs of each name, wants.

    Runs may go on meanwhile: what they look up or publish they do while this waits, and what they asked for they
    have noted before. Everything leaves its place at once, traces before what they stand for; only then is it deleted.
    Where locks do not work, a run may come to miss a result that it was just about to share; the same command
    makes it again.
    """
    if dry_run or not store.root.is_dir():
        return _find_garbage(store, keep)[0]
    trash = store.make_temp_folder()
    try:
        with disk_errors(f"clearing the store {store.root}"), store.exclusive_access("gc"):
            found, gone = _find_garbage(store, keep)
            for number, path in enumerate(path for paths in gone.values() for path in paths):
                with suppress(FileNotFoundError):
                    path.rename(trash / str(number))
            for folder in {path.parent for kind in ("results", "items", "artifacts") for path in gone.get(kind, ())}:
                with suppress(OSError):
                    folder.rmdir()
    finally:
        remove_tree(trash)
    return found


def runs_to_keep(every: list[Run], keep: int) -> list[Run]:
    """Pinned and live ones, and the newest of each name."""
    seen: dict[str, int] = {}
    kept = []
    for run in every:
        seen[run.name] = seen.get(run.name, 0) + 1
        if run.is_pinned or run.is_live or seen[run.name] <= keep:
            kept.append(run)
    return kept


def _find_garbage(store: Store, keep: int) -> tuple[GcReport, dict[str, list[Path]]]:
    # listed before the runs are asked: what is published meanwhile is not on the list
    listed = {"artifacts": list(artifact_folders(store)), "work": list_dir(store.root / "work")}
    traces = list(store.traces.all())
    every = list_runs(store)
    kept = runs_to_keep(every, keep)
    gone = dict(_unreachable(store, find_reachable(store, kept), listed, traces))
    gone["runs"] = [run.folder for run in every if run not in kept]
    gone["quarantine"] = list_dir(store.root / "quarantine")
    gone["leftovers"] = [path for path in list_dir(store.scratch) if _is_leftover(path)]
    gone["locks"] = [path for path in store.lock_files() if _is_stale(path) and is_unlocked(path)]
    rooms = {kind: DiskUsage(len(paths), sum(map(disk_usage, paths))) for kind, paths in gone.items() if paths}
    return GcReport(tuple(kept), rooms), gone


def _unreachable(store: Store, want: Reachable, listed: Mapping[str, list[Path]],
                 traces: list[tuple[str, str, Path]]) -> Iterator[tuple[str, list[Path]]]:
    """By kind, in the order in which it may go."""
    unwanted = [(stage, path) for stage, key, path in traces if (stage, key) not in want.traces]
    yield "results", [path for stage, path in unwanted if not stage.endswith(".item")]
    yield "items", [path for stage, path in unwanted if stage.endswith(".item")]
    yield "artifacts", [path for path in listed["artifacts"] if path.name not in want.digests]
    yield "work", [path for path in listed["work"] if path.name not in want.work]


def _is_leftover(path: Path) -> bool:
    """Whether something temporary has no owner any more; another machine's, once it is old."""
    return _is_stale(path) if is_foreign(path.name) else is_orphan(path.name)


def _is_stale(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    except OSError:
        return False
