"""Is every byte in the store what was written? What is not goes into quarantine, and the next run makes it again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dbrun.store.atomic import disk_errors, entries, fresh_name
from dbrun.store.checksummed_json import read_marked
from dbrun.store.json_cache import sound
from dbrun.store.objects import contents, sha256_of, wrong
from dbrun.store.runs import KEYS, RECIPE, Run, runs
from dbrun.store.store import Store
from dbrun.store.traces import File, manifest_digest
from dbrun.store.usage import artifacts

QUARANTINE = "quarantine"
"""The folder of the store where what is damaged is put."""
OTHER = "it holds other bytes than were written"
CHECKPOINT = re.compile(r"step-\d+\.(?P<digest>[0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class Finding:
    """Something that is not what was written. place: relative to the store; aside: where it is now."""

    kind: str
    place: str
    what: str
    aside: str | None


@dataclass(frozen=True)
class Report:
    """What a check looked at, by kind, and what it found."""

    checked: Mapping[str, int]
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, object]:
        """The same as plain data."""
        return {"format_version": 1, "checked": dict(self.checked), "findings": [vars(f) for f in self.findings]}


def check(store: Store, poll: Callable[[str, int], None] = lambda kind, done: None) -> Report:
    """Read everything. What is wrong is put aside, where the store takes writes.

    poll: told how many things of a kind were read; may raise to stop.
    """
    checked: dict[str, int] = {}
    findings = []
    for kind, path, what in _looked_at(store):
        checked[kind] = checked.get(kind, 0) + 1
        poll(kind, checked[kind])
        if what is not None:
            place = path.relative_to(store.root).as_posix()
            findings.append(Finding(kind, place, what, _aside(store, path)))
    return Report(checked, tuple(findings))


def _looked_at(store: Store) -> Iterator[tuple[str, Path, str | None]]:
    """Kind, place and fault, None where there is none, of everything in the store that can be told from its digest."""
    known: dict[str, Mapping[str, File]] = {}
    claims: dict[str, list[Path]] = {}
    for stage, key, path in store.traces.all():
        trace = store.traces.read(stage, key)
        yield "trace", path, None if trace else "it cannot be read, or holds other bytes than were written"
        if trace is not None:
            known[trace.digest] = trace.files
            claims.setdefault(trace.digest, []).append(path)
    for digest, files in known.items():
        folder = store.objects.path(digest)
        with store.using():
            # a gc may have taken it since its traces were read
            standing = [path for path in claims[digest] if path.exists()]
            lines = wrong(folder, files, sha256_of) if standing else []
        yield "artifact", folder, lines[0] if lines else None
        for path in standing if lines else ():
            yield "trace", path, f"its artifact is damaged: {lines[0]}"
    for folder in artifacts(store):
        if folder.name not in known:
            yield "artifact", folder, _unnamed(folder)
    for path in (p for work in entries(store.root / "work") for p in entries(work / "checkpoints")):
        if match := CHECKPOINT.fullmatch(path.name):
            yield "checkpoint", path, _changed(path, match["digest"])
    for path in entries(store.root):
        if path.suffix == ".table":
            yield "table", path, None if sound(path) else OTHER
    for run in runs(store):
        yield "run", *_fault(run)


def _unnamed(folder: Path) -> str | None:
    """What is wrong with an artifact that no trace describes: its name is the digest of its contents."""
    try:
        whole = manifest_digest(contents(folder)) == folder.name
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    return None if whole else OTHER


def _changed(path: Path, digest: str) -> str | None:
    """What is wrong with a file that should have this digest, unless it is gone."""
    try:
        return None if sha256_of(path) == digest else OTHER
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _fault(run: Run) -> tuple[Path, str | None]:
    """What of a run's record is not as it was written; a live one is still being written."""
    if run.live:
        return run.folder, None
    if run.wants is None:
        return run.folder, "what it asked for cannot be read"
    if run.wants.recipe and (fault := _changed(run.folder / RECIPE, run.wants.recipe)):
        return run.folder / RECIPE, fault
    asked = run.folder / KEYS
    keys = read_marked(asked) if asked.exists() else {}
    if keys is None or (run.wants.recipe and not keys.items() <= run.wants.keys.items()):
        return asked, OTHER
    return run.folder, None


def _aside(store: Store, path: Path) -> str | None:
    """Put something into quarantine; None where it was gone, or the store takes no writes."""
    if store.read_only:
        return None
    home = store.root / QUARANTINE
    aside = home / f"{path.name}.{fresh_name()}"
    with disk_errors("putting aside what is damaged"), store.using():
        home.mkdir(parents=True, exist_ok=True)
        try:
            path.rename(aside)
        except FileNotFoundError:
            return None
    return aside.relative_to(store.root).as_posix()
