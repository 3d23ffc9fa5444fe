"""Earlier runs of a store: the last recipe, the ids of all runs, and the keys that their stages had."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbrun.input_file import read_json
from dbrun.store.runs import KEYS_FILE, recipe_name
from dbrun.store.store import Store

LAST_RUN_FILE = "last.json"
"""File in the store's root that names the recipe run last."""
MAX_RUNS_OF_NAME = 20
"""Number of runs of a recipe name that are searched for a stage's last key document."""
MAX_RUNS_SEARCHED = 200
"""Number of runs that are searched for one that had a key."""


@dataclass(frozen=True)
class LastRun:
    """Recipe last run in this folder. path: relative to the current folder; overrides, profiles: as they were typed."""

    path: str
    overrides: tuple[str, ...]
    profiles: tuple[str, ...] = ()


def create_run_folder(store: Store, name: str) -> Path:
    """Create the folder `runs/<time>-<name>/` of a run. Sorted by name, the folders are in the order of their start."""
    while True:
        folder = store.runs / new_run_id(name)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            # another process began a run of this name in the same microsecond
            continue
        return folder


def new_run_id(name: str) -> str:
    """Id of a run that begins now: `<date>-<time>.<microseconds>-<name>`, in UTC."""
    now = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    return f"{stamp}.{int(now % 1 * 1e6):06}-{name}"


def save_last_run(store: Store, path: Path, overrides: Sequence[str], profiles: Sequence[str] = ()) -> None:
    """Save which recipe runs now, for commands without a recipe."""
    # relative paths: a project that is moved together with its store still finds its last recipe
    store.write_json(LAST_RUN_FILE,
                     {"folder": _relative_folder(store), "path": os.path.relpath(path), "overrides": list(overrides),
                      "profiles": list(profiles)})


def last_run(store: Store) -> LastRun | None:
    """Recipe run last; None if that was in another folder, or if there was none."""
    data = _read_json(store.root / LAST_RUN_FILE)
    path, overrides = data.get("path"), data.get("overrides")
    if data.get("folder") != _relative_folder(store) or not isinstance(path, str) or not isinstance(overrides, list):
        return None
    profiles = data.get("profiles")
    if not isinstance(profiles, list):
        # files written before profiles existed have none
        profiles = []
    return LastRun(path, tuple(map(str, overrides)), tuple(map(str, profiles)))


def _relative_folder(store: Store) -> str:
    """Path of the current folder, relative to the store."""
    return os.path.relpath(Path.cwd(), store.root.resolve())


def newest_run_ids(store: Store) -> list[str]:
    """Ids of all runs, the newest first."""
    try:
        ids = [p.name for p in store.runs.iterdir() if recipe_name(p.name) is not None]
    except OSError:
        return []
    # an id begins with its time, so the order of the names is that of the starts
    return sorted(ids, reverse=True)


def last_key_documents(store: Store, name: str, stage: str) -> Iterator[Mapping[str, object]]:
    """Yield at most one key document of a stage: of the newest run of this recipe name whose result is in the store."""
    runs = [run for run in newest_run_ids(store) if recipe_name(run) == name]
    for run in runs[:MAX_RUNS_OF_NAME]:
        key = _read_json(store.runs / run / KEYS_FILE).get(stage)
        try:
            trace = store.traces.read(stage, str(key)) if key else None
        except ValueError:
            # a damaged file only costs the comparison, never the plan
            continue
        if trace is not None:
            yield trace.document
            return


def run_with_key(store: Store, stage: str, key: str) -> str | None:
    """Recipe name of the newest run in which a stage had this key; None if none of the last MAX_RUNS_SEARCHED had."""
    for run in newest_run_ids(store)[:MAX_RUNS_SEARCHED]:
        if _read_json(store.runs / run / KEYS_FILE).get(stage) == key:
            return recipe_name(run)
    return None


def _read_json(path: Path) -> Mapping[str, object]:
    try:
        data = read_json(path)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
