"""The cache of a stage's single items, as planning looks into it and a run fills it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dbrun.events import Emit, Note
from dbrun.plan.cache_key import StageKey, shared_key_fields
from dbrun.plan.planner import Scope
from dbrun.store.items import DiskItemCache


def item_cache(scope: Scope, stage_key: StageKey, emit: Emit, find_base: Callable[[], Path | None], *,
               from_scratch: bool) -> DiskItemCache:
    """The single items of a stage. find_base: see `StageContextFactory`; from_scratch: make all of them again."""
    store, stage = scope.store, stage_key.stage

    def warn(text: str) -> None:
        emit(Note(stage.NAME, text, "warning"))

    return DiskItemCache(store, stage.NAME, shared_key_fields(stage, stage.NAME, scope.numerics),
                         store.work_folder(stage_key.resume_key), from_scratch, warn, find_base)
