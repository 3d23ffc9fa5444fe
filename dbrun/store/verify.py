"""Verification: read every byte of the store, and quarantine what is damaged; the next run remakes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dbrun.naming import CHECKPOINT_NAME
from dbrun.store.atomic import disk_errors, list_dir, temp_name
from dbrun.store.checksummed_json import read_checksummed
from dbrun.store.json_cache import is_intact
from dbrun.store.objects import confirm_damage, hash_files, sha256_of
from dbrun.store.runs import KEYS_FILE, RECIPE_FILE, Run, list_runs
from dbrun.store.store import Store
from dbrun.store.traces import ArtifactFile, manifest_digest
from dbrun.store.usage import artifact_folders

QUARANTINE = "quarantine"
"""The folder of the store that damaged files are moved to."""
BYTES_DIFFER = "it holds other bytes than were written"


@dataclass(frozen=True)
class StoreFinding:
    """Something in the store that is damaged.

    kind: trace, artifact, checkpoint, table or run; place: its path relative to the store; what: what is wrong;
    aside: its path in the quarantine, None if it was not moved.
    """

    kind: str
    place: str
    what: str
    aside: str | None


@dataclass(frozen=True)
class VerifyReport:
    """The result of a verification. counts: kind → how many were read; findings: what is damaged."""

    counts: Mapping[str, int]
    findings: tuple[StoreFinding, ...]

    def to_json(self) -> dict[str, object]:
        """The report as JSON data."""
        return {"format_version": 1, "checked": dict(self.counts), "findings": [vars(f) for f in self.findings]}


def verify_store(store: Store, poll: Callable[[str, int], None] = lambda kind, done: None) -> VerifyReport:
    """Read the whole store, and move what is damaged to the quarantine unless the store is read-only.

    poll: called with a kind and how many of it were read so far; may raise to stop.
    """
    counts: dict[str, int] = {}
    findings = []
    for kind, path, what in _inspect(store):
        counts[kind] = counts.get(kind, 0) + 1
        poll(kind, counts[kind])
        if what is not None:
            place = path.relative_to(store.root).as_posix()
            findings.append(StoreFinding(kind, place, what, _quarantine(store, path)))
    return VerifyReport(counts, tuple(findings))


def _inspect(store: Store) -> Iterator[tuple[str, Path, str | None]]:
    """Kind, path and fault (None if sound) of everything in the store that has a digest or checksum."""
    # Traces first: they name the files that each artifact must have.
    files_of: dict[str, Mapping[str, ArtifactFile]] = {}
    traces_of: dict[str, list[Path]] = {}
    for stage, key, path in store.traces.all():
        trace = store.traces.read(stage, key)
        if trace is None:
            yield "trace", path, "it cannot be read, or holds other bytes than were written"
            continue
        yield "trace", path, None
        files_of[trace.digest] = trace.files
        traces_of.setdefault(trace.digest, []).append(path)

    for digest, files in files_of.items():
        folder = store.objects.path(digest)
        with store.shared_access():
            # A gc may have taken the artifact since its traces were read, and its traces with it.
            standing = [path for path in traces_of[digest] if path.exists()]
            lines = confirm_damage(folder, files, sha256_of) if standing else []
        if not lines:
            yield "artifact", folder, None
            continue
        yield "artifact", folder, lines[0]
        # The traces go with their artifact, or every run would look up a result that is gone.
        for path in standing:
            yield "trace", path, f"its artifact is damaged: {lines[0]}"

    # An artifact without a trace can only be compared with its own name, the digest of its content.
    for folder in artifact_folders(store):
        if folder.name not in files_of:
            yield "artifact", folder, _artifact_fault(folder)

    for work in list_dir(store.root / "work"):
        for path in list_dir(work / "checkpoints"):
            match = CHECKPOINT_NAME.fullmatch(path.name)
            if match:
                yield "checkpoint", path, _digest_fault(path, match["digest"])
    for path in list_dir(store.root):
        if path.suffix == ".table":
            fault = None if is_intact(path) else BYTES_DIFFER
            yield "table", path, fault
    for run in list_runs(store):
        yield "run", *_run_fault(run)


def _artifact_fault(folder: Path) -> str | None:
    """What is wrong with an artifact that no trace describes; its name is the digest of its contents."""
    try:
        is_sound = manifest_digest(hash_files(folder)) == folder.name
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    return None if is_sound else BYTES_DIFFER


def _digest_fault(path: Path, digest: str) -> str | None:
    """What is wrong with a file that should have this digest; None if it is sound, or no longer exists."""
    try:
        return None if sha256_of(path) == digest else BYTES_DIFFER
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _run_fault(run: Run) -> tuple[Path, str | None]:
    """The damaged file of a run's record and its fault; the run's folder and None if it is sound."""
    # The record of a live run is still being written.
    if run.is_live:
        return run.folder, None
    if run.roots is None:
        return run.folder, "the list of what it needs cannot be read"
    if run.roots.recipe:
        fault = _digest_fault(run.folder / RECIPE_FILE, run.roots.recipe)
        if fault:
            return run.folder / RECIPE_FILE, fault
    # keys.json has no checksum, but it never holds a key that the roots, written first, do not.
    keys_file = run.folder / KEYS_FILE
    keys = read_checksummed(keys_file) if keys_file.exists() else {}
    if keys is None or (run.roots.recipe and not keys.items() <= run.roots.keys.items()):
        return keys_file, BYTES_DIFFER
    return run.folder, None


def _quarantine(store: Store, path: Path) -> str | None:
    """Move a path to the quarantine; return its new path relative to the store, None if it was not moved."""
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
