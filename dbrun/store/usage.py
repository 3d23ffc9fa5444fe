"""What the store holds, the disk space it takes, and what a set of runs needs from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from dbrun.errors import StoreCorrupt
from dbrun.store.atomic import disk_usage, list_dir
from dbrun.store.items import read_item_keys
from dbrun.store.runs import Run
from dbrun.store.store import Store
from dbrun.store.traces import SHA256_HEX

ITEM_SUFFIX = ".item"
"""A stage's items are stored under the stage's name with this suffix."""


@dataclass(frozen=True)
class Reachable:
    """What a set of runs needs: traces as (stage, key), digests of artifacts, names of work folders."""

    traces: frozenset[tuple[str, str]]
    digests: frozenset[str]
    work: frozenset[str]


@dataclass(frozen=True)
class Result:
    """What reachability needs of a trace: the stage, the artifact's digest, and the keys of the items it is made of."""

    stage: str
    digest: str
    items: tuple[str, ...]


ResultReader = Callable[[str, str], Result | None]
"""(stage, key) → the result under this key; None where there is no trace that can be read."""


def find_reachable(store: Store, kept: Iterable[Run]) -> Reachable:
    """All that these runs need: their results, their unfinished work, and the items of both.

    Raises StoreCorrupt if the record of a run cannot be read, because what it needs is then unknown.
    """
    return _find_reachable(store, kept, partial(_read_result, store))


def _find_reachable(store: Store, kept: Iterable[Run], read: ResultReader) -> Reachable:
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
    found = _read_all(read, traces)
    items: set[tuple[str, str]] = set()
    for result in found:
        items.update((result.stage + ITEM_SUFFIX, item) for item in result.items)
    # Items have no items of their own, so one step further is all there is.
    found += _read_all(read, items - traces)
    digests = frozenset(result.digest for result in found)
    return Reachable(frozenset(traces | items), digests, frozenset(work))


def _read_all(read: ResultReader, names: Iterable[tuple[str, str]]) -> list[Result]:
    """The results under these stages and keys, as far as there are any."""
    results = [read(stage, key) for stage, key in names]
    return [result for result in results if result is not None]


def _read_result(store: Store, stage: str, key: str) -> Result | None:
    try:
        trace = store.traces.read(stage, key)
    except ValueError:
        return None
    if trace is None:
        return None
    return Result(stage, trace.digest, trace.items)


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


def disk_usage_by_run(store: Store, runs: Iterable[Run]) -> Iterator[int]:
    """Yield the bytes on the disk of each run's results, items and unfinished work; 0 where its record is damaged."""
    # runs share most of what they need, class images above all, so each trace and each folder is read once
    read, bytes_of = cache(partial(_read_result, store)), cache(disk_usage)
    for run in runs:
        if run.roots is None:
            yield 0
            continue
        reachable = _find_reachable(store, [run], read)
        folders = [*map(store.objects.path, reachable.digests), *map(store.work_folder, reachable.work)]
        yield sum(map(bytes_of, folders))
