"""What the store holds, the disk space it takes, and what a set of runs needs from it."""

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
"""A stage's items are stored under the stage's name with this suffix."""


@dataclass(frozen=True)
class Reachable:
    """What a set of runs needs: traces as (stage, key), digests of artifacts, names of work folders."""

    traces: frozenset[tuple[str, str]]
    digests: frozenset[str]
    work: frozenset[str]


def find_reachable(store: Store, kept: Iterable[Run]) -> Reachable:
    """All that these runs need: their results, their unfinished work, and the items of both.

    Raises StoreCorrupt if the record of a run cannot be read, because what it needs is then unknown.
    """
    traces: set[tuple[str, str]] = set()
    work: set[str] = set()
    for run in kept:
        if run.roots is None:
            raise StoreCorrupt(f"the record of the run {run.id} is damaged, so what it needs is unknown",
                               fix="dbrun verify, which puts it aside")
        traces.update(run.roots.keys.items())
        work.update(run.roots.work.values())
        # Items of unfinished work are in no trace yet; its list names them.
        for stage, lineage in run.roots.work.items():
            for item in read_item_keys(store.work_folder(lineage)):
                traces.add((stage + ITEM_SUFFIX, item))
    found = _read_all(store, traces)
    items: set[tuple[str, str]] = set()
    for trace in found:
        items.update((trace.stage + ITEM_SUFFIX, item) for item in trace.items)
    # Items have no items of their own, so one step further is all there is.
    found += _read_all(store, items - traces)
    digests = frozenset(trace.digest for trace in found)
    return Reachable(frozenset(traces | items), digests, frozenset(work))


def _read_all(store: Store, names: Iterable[tuple[str, str]]) -> list[Trace]:
    """The traces of these stages and keys that exist and can be read."""
    traces = []
    for stage, key in names:
        try:
            trace = store.traces.read(stage, key)
        except ValueError:
            continue
        if trace is not None:
            traces.append(trace)
    return traces


def artifact_folders(store: Store) -> Iterator[Path]:
    """The folder of every artifact, with or without a trace."""
    for inner in list_dir(store.root / "objects"):
        yield from (path for path in list_dir(inner) if SHA256_HEX.fullmatch(path.name))


@dataclass(frozen=True)
class DiskUsage:
    """The disk space of a part of the store. count: the number of entries; bytes: on the disk."""

    count: int
    bytes: int


def usage_by_part(store: Store) -> Mapping[str, DiskUsage]:
    """Name of a part of the store → its disk usage: the results of each stage, their items, and the rest.

    Equal artifacts are stored once, and counted for the first stage in alphabetical order, before any items.
    """
    part_of: dict[str, str] = {}
    for stage, key, _ in sorted(store.traces.all(), key=lambda t: (t[0].endswith(ITEM_SUFFIX), t)):
        trace = store.traces.read(stage, key)
        if trace is None:
            continue
        part = f"items of {stage.removesuffix(ITEM_SUFFIX)}" if stage.endswith(ITEM_SUFFIX) else stage
        part_of.setdefault(trace.digest, part)
    paths_of: dict[str, list[Path]] = {}
    for folder in artifact_folders(store):
        paths_of.setdefault(part_of.get(folder.name, "without a use"), []).append(folder)
    paths_of["checkpoints and unfinished work"] = list_dir(store.root / "work")
    paths_of["runs"] = list_dir(store.runs)
    paths_of["quarantine"] = list_dir(store.root / "quarantine")
    sizes = {part: DiskUsage(len(paths), sum(map(disk_usage, paths))) for part, paths in paths_of.items() if paths}
    # By subtraction, so that the parts always add up to the whole folder.
    rest = disk_usage(store.root) - sum(usage.bytes for usage in sizes.values())
    if rest > 0:
        sizes["traces, tables and folders"] = DiskUsage(len(list(store.traces.all())), rest)
    return sizes


def disk_usage_of_runs(store: Store, some: Sequence[Run]) -> int:
    """Bytes on the disk of these runs' results, items and unfinished work; what they share counts once."""
    reachable = find_reachable(store, some)
    return (sum(disk_usage(store.objects.path(digest)) for digest in reachable.digests)
            + sum(disk_usage(store.work_folder(lineage)) for lineage in reachable.work))
