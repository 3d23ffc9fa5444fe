"""Traces: a trace says which key gave which artifact, and is the only mark that a stage is done."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from dbrun.store.atomic import list_dir, replace_file
from dbrun.store.canonical import digest
from dbrun.store.checksummed_json import FORMAT_VERSION, dump_checksummed, parse_checksummed, read_checksummed
from dbrun.workload import Workload

KNOWN_VERSIONS = (1, FORMAT_VERSION)
STAGE_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}(\.item)?")
SHA256_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ArtifactFile:
    """One file of an artifact: its size in bytes and the sha256 of its content as 64 hex digits."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Trace:
    """The record of a stage's finished work.

    key: the cache key; digest: of the artifact; document: all that the key was computed from, for `explain`;
    created: the time in UTC; seconds: how long the work took; items: the keys of the items it is made of;
    memory: peak bytes, 0 if unknown; baseline: those of them that were there before the stage's own tensors, 0 on a GPU
    or if unknown; share: the part of the whole work that was done in these seconds, 0 to 1
    (less than 1 if the run resumed); startup: the part of the seconds that does not grow with the work, None if too
    little was done to tell; amounts: the size of the whole work, None in traces of earlier versions.
    """

    stage: str
    key: str
    digest: str
    files: Mapping[str, ArtifactFile]
    document: Mapping[str, object]
    created: str
    seconds: float
    items: tuple[str, ...] = ()
    memory: int = 0
    share: float = 1.0
    startup: float | None = None
    amounts: Workload | None = None
    baseline: int = 0

    @property
    def total_bytes(self) -> int:
        """Bytes of all files of the artifact."""
        return sum(file.size for file in self.files.values())


def manifest_digest(files: Mapping[str, ArtifactFile]) -> str:
    """The digest of an artifact: sha256 of its files' names, sizes and digests, sorted by name."""
    return digest([[name, files[name].size, files[name].sha256] for name in sorted(files)])


def is_safe_name(name: str) -> bool:
    """Whether a relative file name from a trace stays inside its artifact's folder."""
    return bool(name) and not any(part in ("", ".", "..") for part in name.split("/")) and "\\" not in name


def trace_name(stage: str, key: str) -> str:
    """The file of a trace, relative to the folder of traces. Raises ValueError if stage or key is malformed."""
    # Keys are read from files of runs, which may be damaged; none may name a file outside the folder.
    if not STAGE_NAME.fullmatch(stage) or not SHA256_HEX.fullmatch(key):
        raise ValueError(f"not the name of a trace: {stage}/{key}")
    if stage.endswith(".item"):
        # Items can be tens of thousands; 256 folders keep each listing short.
        return f"{stage}/{key[:2]}/{key}.json"
    return f"{stage}/{key}.json"


class Traces:
    """The folder of traces: `<stage>/<key>.json`, and for items `<stage>.item/<first two of key>/<key>.json`."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self._root = root
        self._scratch = scratch

    def path(self, stage: str, key: str) -> Path:
        """The file of the trace under this key; it need not exist. Raises ValueError if stage or key is malformed."""
        return self._root / trace_name(stage, key)

    def read(self, stage: str, key: str) -> Trace | None:
        """The trace under this key; None if there is none, or if it is damaged."""
        return _read(self.path(stage, key), stage, key)

    def write(self, trace: Trace, *, durable: bool) -> None:
        """Write a trace atomically; from then on the result counts. durable: survive a power cut, too."""
        replace_file(self.path(trace.stage, trace.key), dump_trace(trace), scratch=self._scratch, durable=durable)

    def all(self) -> Iterator[tuple[str, str, Path]]:
        """Stage, key and file of every trace, items included, whether it can be read or not."""
        for folder in list_dir(self._root):
            stage = folder.name
            inner = list_dir(folder) if stage.endswith(".item") else [folder]
            for home in inner:
                for path in list_dir(home):
                    if STAGE_NAME.fullmatch(stage) and SHA256_HEX.fullmatch(path.stem) and path.suffix == ".json":
                        yield stage, path.stem, path

    def recent(self, stage: str, limit: int) -> Iterator[Trace]:
        """The newest traces of a stage, at most limit, the newest first; damaged ones are left out."""
        try:
            listing = list(os.scandir(self._root / stage))
        except OSError:
            return
        entries = [e for e in listing if SHA256_HEX.fullmatch(e.name.removesuffix(".json"))]
        for entry in sorted(entries, key=_mtime, reverse=True)[:limit]:
            trace = _read(Path(entry.path), stage, entry.name.removesuffix(".json"))
            if trace is not None:
                yield trace


def _mtime(entry: os.DirEntry[str]) -> tuple[int, str]:
    try:
        return entry.stat().st_mtime_ns, entry.name
    except OSError:
        return 0, entry.name


def _amounts(data: Any) -> Workload | None:
    if data is None:
        return None
    disk = {str(end): float(size) for end, size in data["disk"].items()}
    return Workload(float(data["units"]), float(data["each"]), tuple(map(float, data["memory"])), disk,
                    tuple(map(str, data["like"])))


def dump_trace(trace: Trace) -> bytes:
    """The trace as the bytes of its file."""
    return dump_checksummed(asdict(trace))


def parse_trace(data: bytes, stage: str, key: str) -> Trace | None:
    """The trace in the bytes of a file; None if they are damaged, or of another key than this."""
    return _trace_of(parse_checksummed(data), stage, key)


def _read(path: Path, stage: str, key: str) -> Trace | None:
    try:
        return _trace_of(read_checksummed(path), stage, key)
    except OSError:
        return None


def _trace_of(data: Any, stage: str, key: str) -> Trace | None:
    try:
        if data is None or data["format_version"] not in KNOWN_VERSIONS:
            return None
        files = {name: ArtifactFile(int(f["size"]), str(f["sha256"])) for name, f in data["files"].items()}
        startup = data.get("startup")
        if startup is not None:
            startup = float(startup)
        # `get` for the members that earlier versions did not write.
        trace = Trace(stage=str(data["stage"]), key=str(data["key"]), digest=str(data["digest"]), files=files,
                      document=cast("Mapping[str, object]", data["document"]), created=str(data["created"]),
                      seconds=float(data["seconds"]), items=tuple(map(str, data.get("items", ()))),
                      memory=int(data.get("memory", 0)), share=float(data.get("share", 1.0)),
                      startup=startup, amounts=_amounts(data.get("amounts")),
                      baseline=int(data.get("baseline", 0)))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    # Traces of version 1 have no checksum; these checks find most damage in them, and a file under a wrong name.
    consistent = (trace.stage == stage and trace.key == key and isinstance(trace.document, dict)
                  and trace.digest == manifest_digest(files) and all(map(is_safe_name, files))
                  and all(map(SHA256_HEX.fullmatch, trace.items)))
    return trace if consistent else None
