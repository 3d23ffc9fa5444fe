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
from dbrun.store.atomic import disk_errors, fresh_name, is_foreign, is_orphan
from dbrun.store.checksummed_json import read_marked
from dbrun.store.objects import sha256_of
from dbrun.store.store import Store

RUN = re.compile(r"(?P<stamp>[0-9]{8}-[0-9]{6})\.[0-9]{6}-(?P<name>.+)")
EVENTS, LIVE, PINNED, RECIPE = "events.jsonl", "live", "pinned", "recipe.json"
KEYS, WANTS = "keys.json", "wants.json"
SILENT = 2 * 24 * 3600.0
"""Seconds after which a run on another machine, which cannot be asked, is taken for dead if it wrote nothing."""


@dataclass(frozen=True)
class Wants:
    """What a run asks of the store. keys: stage → key; work: stage → folder of unfinished work.

    recipe: the sha256 of its `recipe.json`.
    """

    keys: dict[str, str] = field(default_factory=dict)
    work: dict[str, str] = field(default_factory=dict)
    recipe: str = ""


@dataclass(frozen=True)
class Run:
    """A run on record. wants: None where that cannot be read; ended: its last event, None where it was cut off."""

    folder: Path
    name: str
    live: bool
    pinned: bool
    wants: Wants | None
    ended: Mapping[str, object] | None

    @property
    def id(self) -> str:
        """Its folder's name."""
        return self.folder.name

    @property
    def state(self) -> str:
        """How it stands: running, done, failed, interrupted or killed."""
        if self.live:
            return "running"
        if self.ended is None:
            return "killed"
        if self.ended.get("event") == "run_finished":
            return "done"
        return "interrupted" if int(str(self.ended.get("exit_code", 1))) > 128 else "failed"


def name_of(run_id: str) -> str | None:
    """The recipe's name in a run's id; None where it is no run's."""
    match = RUN.fullmatch(run_id)
    return match["name"] if match else None


def runs(store: Store) -> list[Run]:
    """All runs, the newest first."""
    try:
        folders = sorted((p for p in store.runs.iterdir() if RUN.fullmatch(p.name) and p.is_dir()), reverse=True)
    except OSError:
        return []
    return [Run(folder, str(name_of(folder.name)), _live(folder), (folder / PINNED).exists(), _wants(folder),
                _ended(folder / EVENTS)) for folder in folders]


def announce(store: Store, folder: Path) -> Wants:
    """Say that a run is alive, by naming its process: however that ends, it will be seen. What it wants so far."""
    (folder / LIVE).write_text(fresh_name(), encoding="ascii")
    wants = Wants(recipe=sha256_of(folder / RECIPE))
    want(store, folder, wants)
    return wants


def leave(folder: Path) -> None:
    """Say that a run is over."""
    try:
        (folder / LIVE).unlink(missing_ok=True)
    except OSError:
        return


def want(store: Store, folder: Path, wants: Wants) -> None:
    """Note what a run asks of the store, before it looks it up."""
    store.replace_marked(f"runs/{folder.name}/{WANTS}", asdict(wants))


def _live(folder: Path) -> bool:
    try:
        process = (folder / LIVE).read_text(encoding="ascii", errors="replace")
        if not is_foreign(process):
            return not is_orphan(process)
        written = max(path.stat().st_mtime for path in (folder / LIVE, folder / EVENTS) if path.exists())
    except OSError:
        return False
    return time.time() - written < SILENT


def _wants(folder: Path) -> Wants | None:
    try:
        data = read_marked(folder / WANTS)
    except FileNotFoundError:
        # a run of an earlier version noted only its keys; one that was killed at once, nothing
        known = read_marked(folder / KEYS) if (folder / KEYS).exists() else {}
        return None if known is None else Wants(_words(known) or {})
    keys, work = (_words(data.get(part)) if data else None for part in ("keys", "work"))
    return Wants(keys, work, str(data.get("recipe"))) if data and keys is not None and work is not None else None


def _words(value: object) -> dict[str, str] | None:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else None


def _ended(path: Path) -> Mapping[str, object] | None:
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
    every = runs(store)
    found = next((run for run in every if word in (run.id, run.name) and (run.pinned or not off)), None)
    if found is None:
        what = "pinned run" if off else "run"
        raise UsageError(f"there is no {what} {word!r} in {store.root}", fix="dbrun ls shows what there is")
    with disk_errors(f"writing into the store {store.root}"):
        if off:
            (found.folder / PINNED).unlink(missing_ok=True)
        else:
            (found.folder / PINNED).touch()
    return found
