"""Which runs are on record, which of them are alive, and what does each of them want of the store?"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dbrun.errors import UsageError
from dbrun.store.atomic import disk_errors, is_foreign, is_orphan, temp_name
from dbrun.store.checksummed_json import read_checksummed
from dbrun.store.objects import sha256_of
from dbrun.store.store import Store

RUN_ID = re.compile(r"(?P<stamp>[0-9]{8}-[0-9]{6})\.[0-9]{6}-(?P<name>.+)")
EVENTS_FILE, LIVE_FILE, PINNED_FILE, RECIPE_FILE = "events.jsonl", "live", "pinned", "recipe.json"
KEYS_FILE, ROOTS_FILE = "keys.json", "wants.json"
STALE_SECONDS = 2 * 24 * 3600.0
"""Seconds after which a run on another machine, which cannot be asked, is taken for dead if it wrote nothing."""


@dataclass(frozen=True)
class GcRoots:
    """What a run asks of the store. keys: stage → key; work: stage → folder of unfinished work.

    recipe: the sha256 of its `recipe.json`.
    """

    keys: dict[str, str] = field(default_factory=dict)
    work: dict[str, str] = field(default_factory=dict)
    recipe: str = ""


@dataclass(frozen=True)
class Run:
    """A run on record. roots: None where that cannot be read; last_event: its last event, None where it was cut off."""

    folder: Path
    name: str
    is_live: bool
    is_pinned: bool
    roots: GcRoots | None
    last_event: Mapping[str, object] | None

    @property
    def id(self) -> str:
        """Its folder's name."""
        return self.folder.name

    @property
    def state(self) -> str:
        """How it stands: running, done, failed, interrupted or killed."""
        if self.is_live:
            return "running"
        if self.last_event is None:
            return "killed"
        if self.last_event.get("event") == "run_finished":
            return "done"
        return "interrupted" if int(str(self.last_event.get("exit_code", 1))) > 128 else "failed"


def recipe_name(run_id: str) -> str | None:
    """The recipe's name in a run's id; None where it is no run's."""
    match = RUN_ID.fullmatch(run_id)
    return match["name"] if match else None


def list_runs(store: Store) -> list[Run]:
    """All runs, the newest first."""
    try:
        folders = sorted((p for p in store.runs.iterdir() if RUN_ID.fullmatch(p.name) and p.is_dir()), reverse=True)
    except OSError:
        return []
    return [Run(folder, str(recipe_name(folder.name)), _is_live(folder), (folder / PINNED_FILE).exists(),
                _read_roots(folder), _read_last_event(folder / EVENTS_FILE)) for folder in folders]


def mark_live(store: Store, folder: Path) -> GcRoots:
    """Say that a run is alive, by naming its process: however that ends, it will be seen. What it wants so far."""
    (folder / LIVE_FILE).write_text(temp_name(), encoding="ascii")
    wants = GcRoots(recipe=sha256_of(folder / RECIPE_FILE))
    save_roots(store, folder, wants)
    return wants


def clear_live(folder: Path) -> None:
    """Say that a run is over."""
    try:
        (folder / LIVE_FILE).unlink(missing_ok=True)
    except OSError:
        return


def save_roots(store: Store, folder: Path, wants: GcRoots) -> None:
    """Note what a run asks of the store, before it looks it up."""
    store.write_checksummed(f"runs/{folder.name}/{ROOTS_FILE}", asdict(wants))


def _is_live(folder: Path) -> bool:
    try:
        process = (folder / LIVE_FILE).read_text(encoding="ascii", errors="replace")
        if not is_foreign(process):
            return not is_orphan(process)
        written = max(path.stat().st_mtime for path in (folder / LIVE_FILE, folder / EVENTS_FILE) if path.exists())
    except OSError:
        return False
    return time.time() - written < STALE_SECONDS


def _read_roots(folder: Path) -> GcRoots | None:
    try:
        data = read_checksummed(folder / ROOTS_FILE)
    except FileNotFoundError:
        # a run of an earlier version noted only its keys; one that was killed at once, nothing
        known = read_checksummed(folder / KEYS_FILE) if (folder / KEYS_FILE).exists() else {}
        return None if known is None else GcRoots(_string_dict(known) or {})
    keys, work = (_string_dict(data.get(part)) if data else None for part in ("keys", "work"))
    return GcRoots(keys, work, str(data.get("recipe"))) if data and keys is not None and work is not None else None


def _string_dict(value: object) -> dict[str, str] | None:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else None


def _read_last_event(path: Path) -> Mapping[str, object] | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 16384))
            last = file.read().splitlines()[-1]
        event = json.loads(last)
    except (OSError, ValueError, IndexError):
        return None
    return event if isinstance(event, dict) and event.get("event") in ("run_finished", "run_failed") else None


def pin(store: Store, word: str, *, off: bool = False) -> Run:
    """Keep what a run made from every gc, or no longer. word: its id, or a name, which means its newest run.

    off: of a name, its newest run that is pinned. Raises UsageError where there is no such run.
    """
    every = list_runs(store)
    found = next((run for run in every if word in (run.id, run.name) and (run.is_pinned or not off)), None)
    if found is None:
        what = "pinned run" if off else "run"
        raise UsageError(f"there is no {what} {word!r} in {store.root}", fix="dbrun ls shows what there is")
    with disk_errors(f"writing into the store {store.root}"):
        if off:
            (found.folder / PINNED_FILE).unlink(missing_ok=True)
        else:
            (found.folder / PINNED_FILE).touch()
    return found
