"""What is in the store, how much room does it take, and what of it does a set of runs want?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbrun.errors import StoreCorrupt
from dbrun.store.atomic import disk_usage, list_dir
from dbrun.store.items import read_item_keys
from dbrun.store.runs import Run
from dbrun.store.store import Store
from dbrun.store.traces import SHA256_HEX, Trace

ITEM_SUFFIX = ".item"
"""What the name of a stage's items has after the stage's own."""


@dataclass(frozen=True)
class Reachable:
    """What some runs want: traces as (stage, key), digests of artifacts, folders of unfinished work."""

    traces: frozenset[tuple[str, str]]
    digests: frozenset[str]
    work: frozenset[str]


def find_reachable(store: Store, kept: Iterable[Run]) -> Reachable:
    """All that these runs asked for, and the single items that it is made of.

    Raises StoreCorrupt where a run's own record cannot be read: what it wants is then unknown.
    """
    traces: set[tuple[str, str]] = set()
    work: set[str] = set()
    for run in kept:
        if run.roots is None:
            raise StoreCorrupt(f"the record of the run {run.id} is damaged, so what it needs is unknown",
                               fix="dbrun verify, which puts it aside")
        traces.update(run.roots.keys.items())
        work.update(run.roots.work.values())
        traces.update((stage + ITEM_SUFFIX, item) for stage, lineage in run.roots.work.items()
                      for item in read_item_keys(store.work_folder(lineage)))
    found = [trace for stage, key in traces if (trace := _read(store, stage, key))]
    items = {(trace.stage + ITEM_SUFFIX, item) for trace in found for item in trace.items}
    found += [trace for stage, key in items - traces if (trace := _read(store, stage, key))]
    return Reachable(frozenset(traces | items), frozenset(t.digest for t in found), frozenset(work))


def _read(store: Store, stage: str, key: str) -> Trace | None:
    try:
        return store.traces.read(stage, key)
    except ValueError:
        return None


def artifact_folders(store: Store) -> Iterator[Path]:
    """Every artifact's folder."""
    for inner in list_dir(store.root / "objects"):
        yield from (path for path in list_dir(inner) if SHA256_HEX.fullmatch(path.name))


@dataclass(frozen=True)
class DiskUsage:
    """What a part of the store takes. count: how many things; bytes: on the disk."""

    count: int
    bytes: int


def usage_by_part(store: Store) -> Mapping[str, DiskUsage]:
    """The room that each part of the store takes: the results of each stage, their single items, and the rest.

    Equal bytes stand in the store once, and count where they are found first.
    """
    stage_of: dict[str, str] = {}
    for stage, key, _ in sorted(store.traces.all(), key=lambda t: (t[0].endswith(ITEM_SUFFIX), t)):
        if (trace := store.traces.read(stage, key)) is not None:
            stage_of.setdefault(trace.digest,
                                f"items of {stage.removesuffix(ITEM_SUFFIX)}" if stage.endswith(ITEM_SUFFIX) else stage)
    found: dict[str, list[Path]] = {}
    for folder in artifact_folders(store):
        found.setdefault(stage_of.get(folder.name, "without a use"), []).append(folder)
    found["checkpoints and unfinished work"] = list_dir(store.root / "work")
    found["runs"] = list_dir(store.runs)
    found["quarantine"] = list_dir(store.root / "quarantine")
    sizes = {part: DiskUsage(len(paths), sum(map(disk_usage, paths))) for part, paths in found.items() if paths}
    rest = disk_usage(store.root) - sum(room.bytes for room in sizes.values())
    if rest > 0:
        sizes["traces, tables and folders"] = DiskUsage(len(list(store.traces.all())), rest)
    return sizes


def disk_usage_of_runs(store: Store, some: Sequence[Run]) -> int:
    """Bytes that these runs' results, items and unfinished work take together."""
    want = find_reachable(store, some)
    return (sum(disk_usage(store.objects.path(digest)) for digest in want.digests)
            + sum(disk_usage(store.work_folder(lineage)) for lineage in want.work))
