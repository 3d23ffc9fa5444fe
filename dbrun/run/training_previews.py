"""The previews of a training: those of the run that trained, also for a run that took the training from the store."""

from __future__ import annotations

from pathlib import Path

from dbrun.input_file import read_json_object
from dbrun.plan.history import MAX_RUNS_OF_NAME, newest_run_ids
from dbrun.run.report_writer import FACTS_FILE
from dbrun.store.runs import KEYS_FILE, recipe_name
from dbrun.store.store import Store

PREVIEWS_FOLDER = "samples"
"""Folder of the previews in a run's folder."""


def find_previews(store: Store, run: Path, train_key: str | None,
                  prompts: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """The folder of the previews of a run's training, which need not exist, and the prompts of their columns.

    run: the run's folder; train_key: the cache key of its training, None while it has none; prompts: of its recipe.
    """
    own = run / PREVIEWS_FOLDER
    if train_key is None or own.is_dir():
        return own, prompts
    name = recipe_name(run.name)
    earlier = [run_id for run_id in newest_run_ids(store) if recipe_name(run_id) == name]
    for run_id in earlier[:MAX_RUNS_OF_NAME]:
        other = store.runs / run_id
        if (other / PREVIEWS_FOLDER).is_dir() and read_json_object(other / KEYS_FILE).get("train") == train_key:
            # a run of an earlier version says no prompts; most likely they are the same
            return other / PREVIEWS_FOLDER, tuple(read_json_object(other / FACTS_FILE).get("prompts") or prompts)
    return own, prompts
