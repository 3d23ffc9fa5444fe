"""Which key gave which artifact? A trace says so, and it is the only mark that a stage is done."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from dbrun.store.atomic import list_dir, replace_file
from dbrun.store.canonical import digest
from dbrun.store.checksummed_json import FORMAT_VERSION, dump_checksummed, read_checksummed
from dbrun.workload import Workload

KNOWN_VERSIONS = (1, FORMAT_VERSION)
STAGE_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}(\.item)?")
SHA256_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ArtifactFile:
    """One file of an artifact."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Trace:
    """A stage's finished work. document: the whole key document; seconds: how long the work took.

    items: the keys of the single items that it is made of; memory: bytes that the work took at most, 0 if unknown;
    share: of the whole work, the part that was done in these seconds, where an earlier run had done the rest;
    startup: of the seconds those that more of the work would not have added to, None where too little was done to tell;
    amounts: how large the whole work is, None where that was not yet written down.
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


def manifest_digest(files: Mapping[str, ArtifactFile]) -> str:
    """The digest of an artifact: sha256 over its sorted list of name, size and content."""
    return digest([[name, files[name].size, files[name].sha256] for name in sorted(files)])


def is_safe_name(name: str) -> bool:
    """Whether a file name from a trace stays inside its artifact's folder."""
    return bool(name) and not any(part in ("", ".", "..") for part in name.split("/")) and "\\" not in name


class Traces:
    """The folder of traces: `<stage>/<key>.json`, for single items `<stage>.item/<two digits>/<key>.json`."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self._root = root
        self._scratch = scratch

    def path(self, stage: str, key: str) -> Path:
        """Where this trace stands, or would stand."""
        if not STAGE_NAME.fullmatch(stage) or not SHA256_HEX.fullmatch(key):
            raise ValueError(f"not the name of a trace: {stage}/{key}")
        folder = self._root / stage
        return (folder / key[:2] if stage.endswith(".item") else folder) / f"{key}.json"

    def read(self, stage: str, key: str) -> Trace | None:
        """The trace under this key; None where there is none, or none that can be understood."""
        return _read(self.path(stage, key), stage, key)

    def write(self, trace: Trace, *, durable: bool) -> None:
        """Let a trace stand, in one move."""
        data = dump_checksummed(asdict(trace))
        replace_file(self.path(trace.stage, trace.key), data, scratch=self._scratch, durable=durable)

    def all(self) -> Iterator[tuple[str, str, Path]]:
        """Stage, key and place of every trace, readable or not, also those of single items."""
        for folder in list_dir(self._root):
            inner = list_dir(folder) if folder.name.endswith(".item") else [folder]
            for path in (path for home in inner for path in list_dir(home)):
                if STAGE_NAME.fullmatch(folder.name) and SHA256_HEX.fullmatch(path.stem) and path.suffix == ".json":
                    yield folder.name, path.stem, path

    def recent(self, stage: str, limit: int) -> Iterator[Trace]:
        """The newest traces of a stage, newest first."""
        try:
            found = list(os.scandir(self._root / stage))
        except OSError:
            return
        entries = [e for e in found if SHA256_HEX.fullmatch(e.name.removesuffix(".json"))]
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
    return Workload(float(data["units"]), float(data["each"]), tuple(map(float, data["memory"])),
                    {str(end): float(size) for end, size in data["disk"].items()}, tuple(map(str, data["like"])))


def _read(path: Path, stage: str, key: str) -> Trace | None:
    try:
        data: Any = read_checksummed(path)
        if data is None or data["format_version"] not in KNOWN_VERSIONS:
            return None
        files = {name: ArtifactFile(int(f["size"]), str(f["sha256"])) for name, f in data["files"].items()}
        trace = Trace(stage=str(data["stage"]), key=str(data["key"]), digest=str(data["digest"]), files=files,
                      document=cast("Mapping[str, object]", data["document"]), created=str(data["created"]),
                      seconds=float(data["seconds"]), items=tuple(map(str, data.get("items", ()))),
                      memory=int(data.get("memory", 0)), share=float(data.get("share", 1.0)),
                      startup=None if data.get("startup") is None else float(data["startup"]),
                      amounts=_amounts(data.get("amounts")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    whole = (trace.stage == stage and trace.key == key and isinstance(trace.document, dict)
             and trace.digest == manifest_digest(files) and all(map(is_safe_name, files))
             and all(map(SHA256_HEX.fullmatch, trace.items)))
    return trace if whole else None
