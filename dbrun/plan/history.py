"""What was run here before: which recipe last, and with what was each stage of a name asked?"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbrun.store.runs import KEYS_FILE, recipe_name
from dbrun.store.store import Store

LAST_RUN_FILE = "last.json"
MAX_RUNS_OF_NAME = 20
"""Runs of a name that are searched for a stage's last question."""
MAX_RUNS_SEARCHED = 200
"""Runs that are searched for the one that had a key."""


@dataclass(frozen=True)
class LastRun:
    """The recipe last run here, its path from the current folder, and the words and profiles laid over it."""

    path: str
    overrides: tuple[str, ...]
    profiles: tuple[str, ...] = ()


def create_run_folder(store: Store, name: str) -> Path:
    """A new folder `runs/<time>-<name>/`; sorted by name they stand in the order of their beginning."""
    while True:
        folder = store.runs / new_run_id(name)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder


def new_run_id(name: str) -> str:
    """What a run of this name is called that begins now."""
    now = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    return f"{stamp}.{int(now % 1 * 1e6):06}-{name}"


def save_last_run(store: Store, path: Path, overrides: Sequence[str], profiles: Sequence[str] = ()) -> None:
    """Note which recipe runs now; relative, so that a project that moves together with its store finds its own."""
    store.write_json(LAST_RUN_FILE,
                     {"folder": _relative_folder(store), "path": os.path.relpath(path), "overrides": list(overrides),
                      "profiles": list(profiles)})


def last_run(store: Store) -> LastRun | None:
    """The recipe last run, if that was in the current folder."""
    data = _read_json(store.root / LAST_RUN_FILE)
    path, overrides = data.get("path"), data.get("overrides")
    if data.get("folder") != _relative_folder(store) or not isinstance(path, str) or not isinstance(overrides, list):
        return None
    profiles = data.get("profiles")
    return LastRun(path, tuple(map(str, overrides)), tuple(map(str, profiles if isinstance(profiles, list) else ())))


def _relative_folder(store: Store) -> str:
    """The current folder, as seen from the store."""
    return os.path.relpath(Path.cwd(), store.root.resolve())


def newest_run_ids(store: Store) -> list[str]:
    """The ids of all runs, the newest first."""
    try:
        return sorted((p.name for p in store.runs.iterdir() if recipe_name(p.name) is not None), reverse=True)
    except OSError:
        return []


def last_key_documents(store: Store, name: str, stage: str) -> Iterator[Mapping[str, object]]:
    """The key document of this stage in the last run of this name that came to it and whose result stands."""
    for run in [run for run in newest_run_ids(store) if recipe_name(run) == name][:MAX_RUNS_OF_NAME]:
        key = _read_json(store.runs / run / KEYS_FILE).get(stage)
        try:
            trace = store.traces.read(stage, str(key)) if key else None
        except ValueError:
            continue
        if trace is not None:
            yield trace.document
            return


def run_with_key(store: Store, stage: str, key: str) -> str | None:
    """The name of the newest run in which a stage had this key; None where no late run had."""
    found = (run for run in newest_run_ids(store)[:MAX_RUNS_SEARCHED]
             if _read_json(store.runs / run / KEYS_FILE).get(stage) == key)
    return recipe_name(next(found, ""))


def _read_json(path: Path) -> Mapping[str, object]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
