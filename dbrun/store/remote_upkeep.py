"""Upkeep of the remote store: what it holds, the removal of what is old, and the search for damage.

A gc removes results that no run has used for so many days, and what nothing names. What that guarantees:

- A run that takes a result writes its trace again once that is a day old, so what is in use stays. A run that only
  reads (mode ro) cannot; what only such runs use grows old.
- A run that publishes writes again each file that has stood for a day, and a gc takes only files that no trace names
  and that are two days old: no file of a result that is being published is among them.
- A run that meets a gap all the same, because a file went between its look and its download, computes that result.
- The checkpoint of a live training stays, because each one is new.

All ages are by the server's clock.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dbrun.errors import StoreCorrupt
from dbrun.naming import CHECKPOINT_NAME
from dbrun.store.objects import sha256_of
from dbrun.store.remote import MAX_TRACE_BYTES, REFRESH_SECONDS, object_name
from dbrun.store.remote_files import THREADS, RemoteFile, RemoteFiles, RemoteMissing
from dbrun.store.traces import Trace, parse_trace
from dbrun.store.usage import ITEM_SUFFIX, DiskUsage
from dbrun.store.verify import BYTES_DIFFER, StoreFinding, VerifyReport

T = TypeVar("T")
DAY = 24 * 3600.0
DEFAULT_DAYS = 30
"""Days without use after which a result is removed by default."""
SHORTEST_DAYS = 2
"""Days after which something can be removed at the earliest."""
MIN_AGE = 2 * REFRESH_SECONDS
"""Age in seconds of a file that no trace names, from which it is removed."""
BATCH = 64 * THREADS
"""Traces that are in memory at once while all are read."""


@dataclass(frozen=True)
class RemoteContent:
    """What a remote store holds. traces: file → its trace, None if it is damaged; objects, work: files by their name.
    """

    objects: Mapping[str, RemoteFile]
    traces: Mapping[RemoteFile, Trace | None]
    work: Mapping[str, RemoteFile]

    def newest_results(self) -> list[tuple[RemoteFile, Trace]]:
        """The results of stages, without items, the newest first."""
        found = [(file, trace) for file, trace in self.traces.items() if trace and not _is_item(trace)]
        return sorted(found, key=lambda entry: (entry[1].created, entry[1].stage), reverse=True)


def read_content(files: RemoteFiles) -> RemoteContent:
    """List the remote store and read all its traces. Raises RemoteError."""
    # objects first: a trace that is written in between names files that this listing may lack, never the reverse
    objects = {file.name: file for file in files.find("objects")}
    work = {file.name: file for file in files.find("work")}
    traces: dict[RemoteFile, Trace | None] = {}
    for batch in _batches(files.find("traces"), BATCH):
        texts = files.read([file.name for file in batch], MAX_TRACE_BYTES)
        for file, text in zip(batch, texts, strict=True):
            # removed since it was listed
            if text is not None:
                traces[file] = _parse(file.name, text)
    return RemoteContent(objects, traces, work)


def usage_by_part(content: RemoteContent) -> Mapping[str, DiskUsage]:
    """Name of a part of the remote store → its size: the results of each stage, their items, and the rest.

    Equal files are stored once, and counted for the first stage in alphabetical order, before any items.
    """
    part_of: dict[str, str] = {}
    counts: dict[str, int] = {}
    traces = [trace for trace in content.traces.values() if trace is not None]
    for trace in sorted(traces, key=lambda trace: (_is_item(trace), trace.stage)):
        part = trace.stage
        if _is_item(trace):
            part = f"items of {trace.stage.removesuffix(ITEM_SUFFIX)}"
        counts[part] = counts.get(part, 0) + 1
        for file in trace.files.values():
            part_of.setdefault(object_name(file), part)
    sizes = dict.fromkeys(counts, 0)
    unused = []
    for name, found in content.objects.items():
        if name in part_of:
            sizes[part_of[name]] += found.size
        else:
            unused.append(found)
    parts = {part: DiskUsage(count, sizes[part]) for part, count in counts.items()}
    rest = {"checkpoints": list(content.work.values()), "without a use": unused, "traces": list(content.traces)}
    return {**parts, **{part: _usage(found) for part, found in rest.items() if found}}


@dataclass(frozen=True)
class RemoteGcReport:
    """The result of a gc. kept: the number of results, items included, that stay; freed: kind → what was removed."""

    kept: int
    freed: Mapping[str, DiskUsage]

    @property
    def freed_bytes(self) -> int:
        """Bytes freed in all."""
        return sum(usage.bytes for usage in self.freed.values())

    def to_json(self) -> dict[str, object]:
        """The report as JSON data."""
        gone = {kind: vars(usage) for kind, usage in self.freed.items()}
        return {"format_version": 1, "kept": self.kept, "bytes": self.freed_bytes, "gone": gone}


def collect_remote_garbage(files: RemoteFiles, days: int, *, dry_run: bool) -> RemoteGcReport:
    """Remove what no run has used for so many days, at least 2, and the files that no result is made of.

    Raises StoreCorrupt if a trace is damaged, because what it names is then unknown; RemoteError.
    """
    now = time.time() if dry_run else _server_time(files)
    content, limit = read_content(files), max(days, SHORTEST_DAYS) * DAY
    damaged = [file.name for file, trace in content.traces.items() if trace is None]
    if damaged:
        raise StoreCorrupt(f"{damaged[0]} in the remote store is damaged, so what it names is unknown",
                           fix="dbrun verify --remote, which removes it")
    old = [file for file in content.traces if _age(file, now) > limit]
    needed: set[str] = set()
    for file, trace in content.traces.items():
        if trace is not None and _age(file, now) <= limit:
            needed.update(map(object_name, trace.files.values()))
    unnamed = [file for name, file in content.objects.items() if name not in needed and _age(file, now) > MIN_AGE]
    work = [file for file in content.work.values() if _age(file, now) > limit]
    gone = {"results": old, "checkpoints": work, "files": unnamed}
    if not dry_run:
        # traces first: after a crash a file without a trace is only lost space
        _remove_still_old(files, [*old, *work], now, limit)
        _remove_still_old(files, unnamed, now, MIN_AGE)
    freed = {kind: _usage(found) for kind, found in gone.items() if found}
    return RemoteGcReport(len(content.traces) - len(old), freed)


def verify_remote(files: RemoteFiles, *, remove: bool,
                  poll: Callable[[str, int], None] = lambda kind, done: None) -> VerifyReport:
    """Read and check the whole remote store. remove: whether damaged files are removed.

    The next run that computes a removed result, or has it in its own store, uploads it again. poll: called with a kind
    and how many of it were read so far; may raise to stop. Raises RemoteError.
    """
    counts: dict[str, int] = {}
    findings: list[StoreFinding] = []
    for kind, name, what in _inspect(files):
        counts[kind] = counts.get(kind, 0) + 1
        poll(kind, counts[kind])
        if what is not None:
            findings.append(StoreFinding(kind, name, what, None))
    if remove:
        files.remove([finding.place for finding in findings])
    return VerifyReport(counts, tuple(findings))


def _inspect(files: RemoteFiles) -> Iterator[tuple[str, str, str | None]]:
    """Kind, name and fault (None if sound) of everything in the remote store."""
    content = read_content(files)
    damaged = set()
    sums = [(file, file.name.rpartition("/")[2]) for file in content.objects.values()]
    for name, fault in _digest_faults(files, sums):
        if fault is not None:
            damaged.add(name)
        yield "file", name, fault
    for file, trace in content.traces.items():
        if trace is None:
            yield "trace", file.name, BYTES_DIFFER
            continue
        lost = [object_name(one) for one in trace.files.values()
                if object_name(one) not in content.objects or object_name(one) in damaged]
        # a trace goes with its files, or every run would try to fetch a result that is gone
        yield "trace", file.name, f"{lost[0]} is missing or damaged" if lost else None
    checkpoints = []
    for file in content.work.values():
        match = CHECKPOINT_NAME.fullmatch(file.name.rpartition("/")[2])
        if match:
            checkpoints.append((file, match["digest"]))
    for name, fault in _digest_faults(files, checkpoints):
        yield "checkpoint", name, fault


def _digest_faults(files: RemoteFiles, digests: Sequence[tuple[RemoteFile, str]]) -> Iterator[tuple[str, str | None]]:
    """The name of each file, and what is wrong with it where its bytes have another digest than this."""
    with tempfile.TemporaryDirectory(prefix="dbrun-verify-") as folder:
        # a few at a time: a whole store need not fit on this disk
        for batch in _batches(digests, THREADS):
            paths = [Path(folder) / str(number) for number in range(len(batch))]
            wanted = [(file.name, path, file.size) for (file, _), path in zip(batch, paths, strict=True)]
            try:
                files.download(wanted)
            except RemoteMissing:
                # a run or a gc has removed one since it was listed
                _download_one_by_one(files, wanted)
            for (file, digest), path in zip(batch, paths, strict=True):
                if path.exists():
                    yield file.name, None if sha256_of(path) == digest else BYTES_DIFFER
                    path.unlink()


def _download_one_by_one(files: RemoteFiles, wanted: Sequence[tuple[str, Path, int]]) -> None:
    """Download files, except those that no longer exist."""
    for one in wanted:
        one[1].unlink(missing_ok=True)
        with suppress(RemoteMissing):
            files.download([one])


def _remove_still_old(files: RemoteFiles, listed: Sequence[RemoteFile], now: float, limit: float) -> None:
    """Remove files, but not those that a run has written again since they were listed. limit: seconds."""
    for batch in _batches(listed, THREADS):
        there = files.look([file.name for file in batch])
        files.remove([file.name for file in there if file is not None and _age(file, now) > limit])


def _server_time(files: RemoteFiles) -> float:
    """The time by the server's clock, in seconds since 1970; that of this machine where it tells none."""
    name = f"clock/{os.urandom(8).hex()}"
    files.write(name, b"")
    try:
        found = files.look([name])[0]
    finally:
        files.remove([name])
    if found is None or found.written is None:
        return time.time()
    return found.written


def _parse(name: str, text: bytes) -> Trace | None:
    # traces/<stage>/<key>.json; for items there is a folder between the two
    parts = name.split("/")
    try:
        return parse_trace(text, parts[1], parts[-1].removesuffix(".json"))
    except IndexError:
        return None


def _age(file: RemoteFile, now: float) -> float:
    # where a server tells no times, nothing is old
    return now - file.written if file.written is not None else 0.0


def _usage(found: Sequence[RemoteFile]) -> DiskUsage:
    return DiskUsage(len(found), sum(file.size for file in found))


def _is_item(trace: Trace) -> bool:
    return trace.stage.endswith(ITEM_SUFFIX)


def _batches(entries: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]
