"""The runs on record: which are alive or pinned, and what each of them needs from the store."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dbrun.errors import UsageError
from dbrun.input_file import open_file, parse_json
from dbrun.store.atomic import disk_errors, is_foreign, is_orphan, remove_tree, temp_name
from dbrun.store.checksummed_json import read_checksummed
from dbrun.store.objects import sha256_of
from dbrun.store.store import Store

RUN_ID = re.compile(r"(?P<stamp>[0-9]{8}-[0-9]{6})\.[0-9]{6}-(?P<name>.+)")
EVENTS_FILE, LIVE_FILE, PINNED_FILE, RECIPE_FILE = "events.jsonl", "live", "pinned", "recipe.json"
KEYS_FILE, ROOTS_FILE = "keys.json", "wants.json"
NOOP_FILE = "noop"
"""Empty file in the record of a run that found nothing to do."""
MAX_RECORDS_SEARCHED = 20
"""Newest records of a name that are searched for those of earlier no-op runs."""
STALE_SECONDS = 2 * 24 * 3600.0
"""Seconds without a new event after which a run on another machine counts as dead: its process cannot be checked."""


@dataclass(frozen=True)
class GcRoots:
    """What a run needs from the store, which no gc may take.

    keys: stage → cache key; work: stage → name of its work folder; recipe: the sha256 of the run's `recipe.json`.
    """

    keys: dict[str, str] = field(default_factory=dict)
    work: dict[str, str] = field(default_factory=dict)
    recipe: str = ""


@dataclass(frozen=True)
class Run:
    """A run on record.

    roots: None if they cannot be read; last_event: `run_finished` or `run_failed`, None if the run wrote neither.
    """

    folder: Path
    name: str
    is_live: bool
    is_pinned: bool
    roots: GcRoots | None
    last_event: Mapping[str, object] | None

    @property
    def id(self) -> str:
        """The name of the run's folder."""
        return self.folder.name

    @property
    def state(self) -> str:
        """One of running, done, failed, interrupted or killed."""
        if self.is_live:
            return "running"
        if self.last_event is None:
            return "killed"
        if self.last_event.get("event") == "run_finished":
            return "done"
        # As in a shell: 128 + the number of the signal that stopped it.
        exit_code = int(str(self.last_event.get("exit_code", 1)))
        return "interrupted" if exit_code > 128 else "failed"


def recipe_name(run_id: str) -> str | None:
    """The recipe's name in a run id; None if the text is not a run id."""
    match = RUN_ID.fullmatch(run_id)
    return match["name"] if match else None


def list_runs(store: Store) -> list[Run]:
    """All runs, the newest first."""
    # An id begins with the time in UTC, so names sort by age.
    try:
        folders = sorted((p for p in store.runs.iterdir() if RUN_ID.fullmatch(p.name) and p.is_dir()), reverse=True)
    except OSError:
        return []
    return [read_run(folder) for folder in folders]


def read_run(folder: Path) -> Run:
    """The run that is recorded in a folder."""
    return Run(folder, str(recipe_name(folder.name)), _is_live(folder), (folder / PINNED_FILE).exists(),
               _read_roots(folder), _read_last_event(folder / EVENTS_FILE))


def mark_live(store: Store, folder: Path) -> GcRoots:
    """Mark a run as alive, write its first roots and return them."""
    # The name of the process, not a mere flag: after a kill nobody could clear a flag.
    (folder / LIVE_FILE).write_text(temp_name(), encoding="ascii")
    roots = GcRoots(recipe=sha256_of(folder / RECIPE_FILE))
    save_roots(store, folder, roots)
    return roots


def mark_noop(store: Store, folder: Path, roots: GcRoots) -> None:
    """Mark a run as one that found nothing to do, and remove the records of earlier ones that are the same.

    The same: of the same name, with the same recipe and the same stage keys, neither pinned nor alive. So of the no-op
    runs of a recipe only the newest is on record, and whatever did any work stays until a gc is told to take it.
    """
    (folder / NOOP_FILE).touch()
    name = recipe_name(folder.name)
    earlier = [p for p in store.runs.iterdir() if recipe_name(p.name) == name and p.name < folder.name]
    # Shared access: a gc that looks at these records at this moment finds all of them, or none of those removed.
    with store.shared_access():
        for record in sorted(earlier, reverse=True)[:MAX_RECORDS_SEARCHED]:
            is_same = (record / NOOP_FILE).exists() and _read_roots(record) == roots
            if is_same and not (record / PINNED_FILE).exists() and not _is_live(record):
                remove_tree(record)


def clear_live(folder: Path) -> None:
    """Mark a run as over."""
    try:
        (folder / LIVE_FILE).unlink(missing_ok=True)
    except OSError:
        return


def save_roots(store: Store, folder: Path, wants: GcRoots) -> None:
    """Write the roots of a run. Must come before the look-up of what they name, or a gc could take it in between."""
    store.write_checksummed(f"runs/{folder.name}/{ROOTS_FILE}", asdict(wants))


def _is_live(folder: Path) -> bool:
    try:
        process = (folder / LIVE_FILE).read_text(encoding="ascii", errors="replace")
        if not is_foreign(process):
            return not is_orphan(process)
        # Another machine's process cannot be checked from here; its last sign of life must do.
        written = max(path.stat().st_mtime for path in (folder / LIVE_FILE, folder / EVENTS_FILE) if path.exists())
    except OSError:
        return False
    return time.time() - written < STALE_SECONDS


def _read_roots(folder: Path) -> GcRoots | None:
    try:
        data = read_checksummed(folder / ROOTS_FILE)
    except FileNotFoundError:
        # Earlier versions wrote only the keys; a run that was killed at once wrote nothing.
        old_keys = read_checksummed(folder / KEYS_FILE) if (folder / KEYS_FILE).exists() else {}
        return None if old_keys is None else GcRoots(_string_dict(old_keys) or {})
    if not data:
        return None
    keys, work = _string_dict(data.get("keys")), _string_dict(data.get("work"))
    if keys is None or work is None:
        return None
    return GcRoots(keys, work, str(data.get("recipe")))


def _string_dict(value: object) -> dict[str, str] | None:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else None


def _read_last_event(path: Path) -> Mapping[str, object] | None:
    try:
        with open_file(path) as file:
            # The end of the file is enough: `ls` reads every run, and the events of a training take megabytes.
            file.seek(max(0, os.fstat(file.fileno()).st_size - 16384))
            last = file.read().splitlines()[-1]
        event = parse_json(last)
    except (OSError, ValueError, IndexError):
        return None
    is_last = isinstance(event, dict) and event.get("event") in ("run_finished", "run_failed")
    return event if is_last else None


def pin(store: Store, word: str, *, off: bool = False) -> Run:
    """Pin a run, so that no gc takes what it made; return the run. off: remove the pin instead.

    word: the run's id, or a name, which means the newest run of that name (with off: the newest that is pinned).
    Raises UsageError if there is no such run.
    """
    every = list_runs(store)
    run = next((run for run in every if word in (run.id, run.name) and (run.is_pinned or not off)), None)
    if run is None:
        what = "pinned run" if off else "run"
        raise UsageError(f"there is no {what} {word!r} in {store.root}", fix="dbrun ls shows what there is")
    with disk_errors(f"writing into the store {store.root}"):
        if off:
            (run.folder / PINNED_FILE).unlink(missing_ok=True)
        else:
            (run.folder / PINNED_FILE).touch()
    return run
