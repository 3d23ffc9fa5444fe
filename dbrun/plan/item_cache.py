"""Cache of a stage's single items, such as class images: planning reads it, a run fills it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dbrun.events import Emit, Note
from dbrun.plan.cache_key import StageKey, shared_key_fields
from dbrun.plan.planner import Scope
from dbrun.store.items import DiskItemCache


def item_cache(scope: Scope, stage_key: StageKey, emit: Emit, find_base: Callable[[], Path | None], *,
               from_scratch: bool) -> DiskItemCache:
    """Item cache of a stage.

    find_base: returns the folder of the verified base, see `StageContextFactory`; from_scratch: make all items again.
    """
    store, stage = scope.store, stage_key.stage

    def warn(text: str) -> None:
        emit(Note(stage.NAME, text, "warning"))

    # the work folder of the resume key: a longer run of the same recipe finds the items of an unfinished shorter one
    return DiskItemCache(store, stage.NAME, shared_key_fields(stage, stage.NAME, scope.numerics),
                         store.work_folder(stage_key.resume_key), from_scratch, warn, find_base)
