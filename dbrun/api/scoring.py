"""Scores of any adapter from Python, as the stage `evaluate` of a recipe measures them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.api.request import FolderLike, RecipeLike, make_request, read_request
from dbrun.api.run import ignore_event
from dbrun.events import Emit

if TYPE_CHECKING:
    from dbrun.use.score import ScoredAdapter


def evaluate(adapters: FolderLike | Sequence[FolderLike], like: RecipeLike, *overrides: str,
             store: FolderLike | None = None, on_event: Emit | None = None,
             cancel: threading.Event | None = None) -> tuple[ScoredAdapter, ...]:
    """Draw adapters over a recipe's base, one by one, and measure the scores of its `evaluate`.

    adapters: files or folders of any program, each with an optional `:WEIGHT`; like: the recipe, as in `run`;
    overrides: `key=value` words; store: that of results, by default $DBRUN_STORE or .dbrun; on_event: called with
    every event. Nothing is written, and pictures are not kept. Raises DbrunError, and Cancelled once cancel is set.
    """
    from dbrun.run.signals import stop_signum
    from dbrun.run.turns import take_turn
    from dbrun.use.adapter_files import find_adapter
    from dbrun.use.score import score_adapters

    emit = on_event or ignore_event
    named = [adapters] if isinstance(adapters, str | Path) or not isinstance(adapters, Sequence) else adapters
    files = [find_adapter(str(adapter)) for adapter in named]
    request = make_request(like, overrides, store=store)
    opened = request.open_store()
    loaded, resolved = read_request(request, opened, emit)

    def stop_signal() -> int:
        return stop_signum(cancel)

    with take_turn(stop_signal=stop_signal):
        return score_adapters(files, loaded, resolved, opened, emit, stop_signal)
