"""What `run`, `stage` and `plan` do once their words are understood."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from dbrun.errors import DbrunError
from dbrun.events import Emit, RunFailed
from dbrun.recipe.load import EXPORTED, LoadedRecipe, read_recipe
from dbrun.resolve.sources import Located, locate
from dbrun.store.store import Store, store_at_hand
from dbrun.ui.terminal import put
from dbrun.ui.waiting import waiting

if TYPE_CHECKING:
    from dbrun.cli.words import Asked
    from dbrun.plan.selection import Selection
    from dbrun.run.runner import Outcome
    from dbrun.workers.env import Place


def read(asked: Asked, emit: Emit | None = None, *, decode: bool = False) -> tuple[LoadedRecipe, Located, Store]:
    """The recipe with what its paths point at, and the store at hand. Raises DbrunError.

    emit: where it is to be run, and so pictures may be fetched; decode: read every picture to its last pixel.
    """
    loaded, wrong = read_recipe(asked.recipe, asked.overrides, asked.profiles)
    store = store_at_hand()
    if emit is not None and not wrong and any(one.revision for one in loaded.recipe.taught.values()):
        from dbrun.resolve.datasets import fetch

        fetch(loaded, store, emit)
    with waiting("reading the pictures and the base"):
        located = locate(loaded, store, decode, wrong)
    if loaded.path.suffix == EXPORTED:
        from dbrun.plan.provenance_diff import differences
        from dbrun.safetensors_header import read as provenance

        told = differences(provenance(loaded.path), loaded.recipe, located)
        located = replace(located, notes=(*located.notes, *told))
    return loaded, located, store


def go(asked: Asked, selection: Selection, *, as_json: bool, quiet: bool = False, locked: bool = False) -> Outcome:
    """Run the recipe's selected stages; the delivered folder's path goes to stdout, unless that is to stay quiet.

    locked: only where the recipe points at what its lock says.
    """
    from dbrun.run.runner import execute
    from dbrun.ui.progress import watcher
    from dbrun.workers.env import check, place
    from dbrun.workers.launcher import Crew

    # threads that spin while they wait slow each other down manyfold on a busy machine; read when torch loads
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.enable()
    if (here := place(os.environ)) is not None and here.rank:
        share(here, asked)
    with closing(watcher(as_json)) as watch:
        try:
            loaded, located, store = read(asked, watch, decode=True)
            check(loaded.recipe, here, os.environ)
            if locked:
                located = _held(loaded, located, store)
        except DbrunError as error:
            watch(RunFailed(None, error.message, error.fix, error.exit_code))
            raise
        crew = Crew(here.size if here else loaded.recipe.launch.processes, asked.words, here)
        outcome = execute(loaded, located, store, selection, emit=watch, overrides=asked.overrides, crew=crew)
        if outcome.outputs is not None and not as_json and not quiet:
            put(str(outcome.outputs))
    return outcome


def _held(loaded: LoadedRecipe, located: Located, store: Store) -> Located:
    """What a recipe points at, its base's commit included, which the lock must say too. Raises DbrunError."""
    from dbrun.resolve.lock import hold
    from dbrun.resolve.sources import pinned

    located = pinned(loaded, located, store)
    hold(loaded, located)
    return located


def share(here: Place, asked: Asked) -> NoReturn:
    """Share the work of a run whose first process is another; ends this one when the run is over."""
    from dbrun.plan.planner import ALL, Scope, scope
    from dbrun.resolve.sources import pinned
    from dbrun.workers.worker import follow

    def plan() -> Scope:
        loaded, located, store = read(asked, lambda event: None)
        return scope(loaded.recipe, pinned(loaded, located, store), store, ALL, None)

    sys.exit(follow(here, plan))
