"""Is every byte in the store what was written? What is not goes into quarantine, and the next run makes it again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dbrun.store.atomic import disk_errors, list_dir, temp_name
from dbrun.store.checksummed_json import read_checksummed
from dbrun.store.json_cache import is_intact
from dbrun.store.objects import find_damage, hash_files, sha256_of
from dbrun.store.runs import KEYS_FILE, RECIPE_FILE, Run, list_runs
from dbrun.store.store import Store
from dbrun.store.traces import ArtifactFile, manifest_digest
from dbrun.store.usage import artifact_folders

QUARANTINE = "quarantine"
"""The folder of the store where what is damaged is put."""
BYTES_DIFFER = "it holds other bytes than were written"
CHECKPOINT_NAME = re.compile(r"step-\d+\.(?P<digest>[0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class StoreFinding:
    """Something that is not what was written. place: relative to the store; aside: where it is now."""

    kind: str
    place: str
    what: str
    aside: str | None


@dataclass(frozen=True)
class VerifyReport:
    """What a check looked at, by kind, and what it found."""

    counts: Mapping[str, int]
    findings: tuple[StoreFinding, ...]

    def as_json(self) -> dict[str, object]:
        """The same as plain data."""
        return {"format_version": 1, "checked": dict(self.counts), "findings": [vars(f) for f in self.findings]}


def verify_store(store: Store, poll: Callable[[str, int], None] = lambda kind, done: None) -> VerifyReport:
    """Read everything. What is wrong is put aside, where the store takes writes.

    poll: told how many things of a kind were read; may raise to stop.
    """
    checked: dict[str, int] = {}
    findings = []
    for kind, path, what in _inspect(store):
        checked[kind] = checked.get(kind, 0) + 1
        poll(kind, checked[kind])
        if what is not None:
            place = path.relative_to(store.root).as_posix()
            findings.append(StoreFinding(kind, place, what, _quarantine(store, path)))
    return VerifyReport(checked, tuple(findings))


def _inspect(store: Store) -> Iterator[tuple[str, Path, str | None]]:
    """Kind, place and fault, None where there is none, of everything in the store that can be told from its digest."""
    known: dict[str, Mapping[str, ArtifactFile]] = {}
    claims: dict[str, list[Path]] = {}
    for stage, key, path in store.traces.all():
        trace = store.traces.read(stage, key)
        yield "trace", path, None if trace else "it cannot be read, or holds other bytes than were written"
        if trace is not None:
            known[trace.digest] = trace.files
            claims.setdefault(trace.digest, []).append(path)
    for digest, files in known.items():
        folder = store.objects.path(digest)
        with store.shared_access():
            # a gc may have taken it since its traces were read
            standing = [path for path in claims[digest] if path.exists()]
            lines = find_damage(folder, files, sha256_of) if standing else []
        yield "artifact", folder, lines[0] if lines else None
        for path in standing if lines else ():
            yield "trace", path, f"its artifact is damaged: {lines[0]}"
    for folder in artifact_folders(store):
        if folder.name not in known:
            yield "artifact", folder, _artifact_fault(folder)
    for path in (p for work in list_dir(store.root / "work") for p in list_dir(work / "checkpoints")):
        if match := CHECKPOINT_NAME.fullmatch(path.name):
            yield "checkpoint", path, _digest_fault(path, match["digest"])
    for path in list_dir(store.root):
        if path.suffix == ".table":
            yield "table", path, None if is_intact(path) else BYTES_DIFFER
    for run in list_runs(store):
        yield "run", *_run_fault(run)


def _artifact_fault(folder: Path) -> str | None:
    """What is wrong with an artifact that no trace describes: its name is the digest of its contents."""
    try:
        whole = manifest_digest(hash_files(folder)) == folder.name
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    return None if whole else BYTES_DIFFER


def _digest_fault(path: Path, digest: str) -> str | None:
    """What is wrong with a file that should have this digest, unless it is gone."""
    try:
        return None if sha256_of(path) == digest else BYTES_DIFFER
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _run_fault(run: Run) -> tuple[Path, str | None]:
    """What of a run's record is not as it was written; a live one is still being written."""
    if run.is_live:
        return run.folder, None
    if run.roots is None:
        return run.folder, "what it asked for cannot be read"
    if run.roots.recipe and (fault := _digest_fault(run.folder / RECIPE_FILE, run.roots.recipe)):
        return run.folder / RECIPE_FILE, fault
    asked = run.folder / KEYS_FILE
    keys = read_checksummed(asked) if asked.exists() else {}
    if keys is None or (run.roots.recipe and not keys.items() <= run.roots.keys.items()):
        return asked, BYTES_DIFFER
    return run.folder, None


def _quarantine(store: Store, path: Path) -> str | None:
    """Put something into quarantine; None where it was gone, or the store takes no writes."""
    if store.read_only:
        return None
    home = store.root / QUARANTINE
    aside = home / f"{path.name}.{temp_name()}"
    with disk_errors("putting aside what is damaged"), store.shared_access():
        home.mkdir(parents=True, exist_ok=True)
        try:
            path.rename(aside)
        except FileNotFoundError:
            return None
    return aside.relative_to(store.root).as_posix()
