"""What is in the store, how much room does it take, and what of it does a set of runs want?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbrun.errors import StoreCorrupt
from dbrun.store.atomic import entries, size
from dbrun.store.items import items_noted
from dbrun.store.runs import Run
from dbrun.store.store import Store
from dbrun.store.traces import KEY, Trace

ITEM = ".item"
"""What the name of a stage's items has after the stage's own."""


@dataclass(frozen=True)
class Wanted:
    """What some runs want: traces as (stage, key), digests of artifacts, folders of unfinished work."""

    traces: frozenset[tuple[str, str]]
    digests: frozenset[str]
    work: frozenset[str]


def wanted(store: Store, kept: Iterable[Run]) -> Wanted:
    """All that these runs asked for, and the single items that it is made of.

    Raises StoreCorrupt where a run's own record cannot be read: what it wants is then unknown.
    """
    traces: set[tuple[str, str]] = set()
    work: set[str] = set()
    for run in kept:
        if run.wants is None:
            raise StoreCorrupt(f"the record of the run {run.id} is damaged, so what it needs is unknown",
                               fix="dbrun verify, which puts it aside")
        traces.update(run.wants.keys.items())
        work.update(run.wants.work.values())
        traces.update((stage + ITEM, item) for stage, lineage in run.wants.work.items()
                      for item in items_noted(store.work(lineage)))
    found = [trace for stage, key in traces if (trace := _read(store, stage, key))]
    items = {(trace.stage + ITEM, item) for trace in found for item in trace.items}
    found += [trace for stage, key in items - traces if (trace := _read(store, stage, key))]
    return Wanted(frozenset(traces | items), frozenset(t.digest for t in found), frozenset(work))


def _read(store: Store, stage: str, key: str) -> Trace | None:
    try:
        return store.traces.read(stage, key)
    except ValueError:
        return None


def artifacts(store: Store) -> Iterator[Path]:
    """Every artifact's folder."""
    for inner in entries(store.root / "objects"):
        yield from (path for path in entries(inner) if KEY.fullmatch(path.name))


@dataclass(frozen=True)
class Room:
    """What a part of the store takes. count: how many things; bytes: on the disk."""

    count: int
    bytes: int


def rooms(store: Store) -> Mapping[str, Room]:
    """The room that each part of the store takes: the results of each stage, their single items, and the rest.

    Equal bytes stand in the store once, and count where they are found first.
    """
    stage_of: dict[str, str] = {}
    for stage, key, _ in sorted(store.traces.all(), key=lambda t: (t[0].endswith(ITEM), t)):
        if (trace := store.traces.read(stage, key)) is not None:
            stage_of.setdefault(trace.digest, f"items of {stage.removesuffix(ITEM)}" if stage.endswith(ITEM) else stage)
    found: dict[str, list[Path]] = {}
    for folder in artifacts(store):
        found.setdefault(stage_of.get(folder.name, "without a use"), []).append(folder)
    found["checkpoints and unfinished work"] = entries(store.root / "work")
    found["runs"] = entries(store.runs)
    found["quarantine"] = entries(store.root / "quarantine")
    sizes = {part: Room(len(paths), sum(map(size, paths))) for part, paths in found.items() if paths}
    rest = size(store.root) - sum(room.bytes for room in sizes.values())
    return {**sizes, "traces, tables and folders": Room(len(list(store.traces.all())), rest)} if rest > 0 else sizes


def of_runs(store: Store, some: Sequence[Run]) -> int:
    """Bytes that these runs' results, items and unfinished work take together."""
    want = wanted(store, some)
    return (sum(size(store.objects.path(digest)) for digest in want.digests)
            + sum(size(store.work(lineage)) for lineage in want.work))
