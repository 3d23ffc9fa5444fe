"""Garbage collection: choose what no kept run needs, and remove it without disturbing live runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from dbrun.store.atomic import disk_errors, disk_usage, is_foreign, is_orphan, list_dir, remove_tree
from dbrun.store.locks import is_unlocked
from dbrun.store.other_machines import refuse_beside_others
from dbrun.store.runs import STALE_SECONDS, Run, list_runs
from dbrun.store.store import Store
from dbrun.store.usage import DiskUsage, Reachable, artifact_folders, find_reachable

DEFAULT_KEEP = 3
"""Newest runs of each name whose results are kept by default."""


@dataclass(frozen=True)
class GcReport:
    """The result of a gc.

    remaining_runs: the runs whose results are kept; freed: kind → what was removed, or would be in a dry run.
    """

    remaining_runs: tuple[Run, ...]
    freed: Mapping[str, DiskUsage]

    @property
    def freed_bytes(self) -> int:
        """Bytes freed in all."""
        return sum(usage.bytes for usage in self.freed.values())

    def to_json(self) -> dict[str, object]:
        """The report as JSON data."""
        gone = {kind: {"count": usage.count, "bytes": usage.bytes} for kind, usage in self.freed.items()}
        return {"format_version": 1, "kept": [run.id for run in self.remaining_runs], "bytes": self.freed_bytes,
                "gone": gone}


def collect_garbage(store: Store, keep: int, *, dry_run: bool, force: bool = False) -> GcReport:
    """Remove what no pinned run, no live run and none of the newest `keep` runs of each name needs.

    Runs may go on meanwhile: they record what they need before they look it up, and look up and publish under shared
    access, while this holds exclusive access. Everything is first renamed into a scratch folder, traces before the
    artifacts that they name, and deleted after that.
    Where locks may not reach other machines, and one of them works in the store, StageFailed is raised unless force is
    set: its run may then miss a result that it was about to use, and the same command remakes it.
    """
    if not dry_run and not force:
        refuse_beside_others(store)
    if dry_run or not store.root.is_dir():
        return _find_garbage(store, keep)[0]
    trash = store.make_temp_folder()
    try:
        with disk_errors(f"clearing the store {store.root}"), store.exclusive_access("gc"):
            report, gone = _find_garbage(store, keep)
            # Renames only, so that runs wait for milliseconds, not for the deletion of gigabytes.
            for number, path in enumerate(chain.from_iterable(gone.values())):
                with suppress(FileNotFoundError):
                    path.rename(trash / str(number))
            _remove_empty_folders(gone)
    finally:
        remove_tree(trash)
    return report


def _remove_empty_folders(gone: Mapping[str, list[Path]]) -> None:
    """Remove the folders named by two digits that the removed entries leave empty."""
    for kind in ("results", "items", "artifacts"):
        for folder in {path.parent for path in gone.get(kind, ())}:
            # A folder that is not empty refuses, which is the check.
            with suppress(OSError):
                folder.rmdir()


def runs_to_keep(every: list[Run], keep: int) -> list[Run]:
    """The pinned and live runs, and the newest `keep` of each name. every: all runs, the newest first."""
    seen: dict[str, int] = {}
    kept = []
    for run in every:
        seen[run.name] = seen.get(run.name, 0) + 1
        if run.is_pinned or run.is_live or seen[run.name] <= keep:
            kept.append(run)
    return kept


def _find_garbage(store: Store, keep: int) -> tuple[GcReport, dict[str, list[Path]]]:
    # Listed before the runs are read: what is published in between is not on the list, and so stays.
    listed = {"artifacts": list(artifact_folders(store)), "work": list_dir(store.root / "work")}
    traces = list(store.traces.all())
    every = list_runs(store)
    kept = runs_to_keep(every, keep)
    gone = dict(_unreachable(store, find_reachable(store, kept), listed, traces))
    gone["runs"] = [run.folder for run in every if run not in kept]
    gone["quarantine"] = list_dir(store.root / "quarantine")
    gone["leftovers"] = [path for path in list_dir(store.scratch) if _is_leftover(path)]
    # Old ones only: removing a lock file just before another process locks it would give two holders.
    gone["locks"] = [path for path in store.lock_files() if _is_stale(path) and is_unlocked(path)]
    freed = {kind: DiskUsage(len(paths), sum(map(disk_usage, paths))) for kind, paths in gone.items() if paths}
    return GcReport(tuple(kept), freed), gone


def _unreachable(store: Store, reachable: Reachable, listed: Mapping[str, list[Path]],
                 traces: list[tuple[str, str, Path]]) -> Iterator[tuple[str, list[Path]]]:
    """Kind and paths of what no kept run needs, in the order of removal.

    Traces go first: after a crash, an artifact without a trace is only lost space, a trace without its artifact damage.
    """
    unneeded = [(stage, path) for stage, key, path in traces if (stage, key) not in reachable.traces]
    yield "results", [path for stage, path in unneeded if not stage.endswith(".item")]
    yield "items", [path for stage, path in unneeded if stage.endswith(".item")]
    yield "artifacts", [path for path in listed["artifacts"] if path.name not in reachable.digests]
    yield "work", [path for path in listed["work"] if path.name not in reachable.work]


def _is_leftover(path: Path) -> bool:
    """Whether the owner of a temporary path is gone. Processes of another machine are judged by the path's age."""
    return _is_stale(path) if is_foreign(path.name) else is_orphan(path.name)


def _is_stale(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    except OSError:
        return False
