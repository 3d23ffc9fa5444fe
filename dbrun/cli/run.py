"""The work of the verbs `run` and `stage`, and the reading of a recipe that most verbs begin with."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from dbrun.errors import DbrunError
from dbrun.events import Emit, RunFailed
from dbrun.recipe.load import EXPORT_SUFFIX, LoadedRecipe, load_with_problems
from dbrun.resolve.sources import ResolvedSources, resolve_sources
from dbrun.store.store import Store, current_store
from dbrun.ui.terminal import print_result
from dbrun.ui.waiting import show_elapsed

if TYPE_CHECKING:
    from dbrun.cli.words import RecipeRequest
    from dbrun.plan.selection import Selection
    from dbrun.run.runner import RunResult
    from dbrun.workers.env import DistributedEnv


def read_request(asked: RecipeRequest, emit: Emit | None = None, *,
                 decode: bool = False) -> tuple[LoadedRecipe, ResolvedSources, Store]:
    """The recipe with what its paths point at, and the store at hand. Raises DbrunError.

    emit: where it is to be run, and so pictures may be fetched; decode: read every picture to its last pixel.
    """
    loaded, wrong = load_with_problems(asked.recipe, asked.overrides, asked.profiles)
    store = current_store()
    if emit is not None and not wrong and any(one.revision for one in loaded.recipe.subjects_by_key.values()):
        from dbrun.resolve.datasets import fetch_datasets

        fetch_datasets(loaded, store, emit)
    with show_elapsed("reading the pictures and the base"):
        resolved = resolve_sources(loaded, store, decode, wrong)
    if loaded.path.suffix == EXPORT_SUFFIX:
        from dbrun.plan.provenance_diff import provenance_notes
        from dbrun.safetensors_header import read_provenance

        told = provenance_notes(read_provenance(loaded.path), loaded.recipe, resolved)
        resolved = replace(resolved, notes=(*resolved.notes, *told))
    return loaded, resolved, store


def run_recipe(asked: RecipeRequest, selection: Selection, *, as_json: bool, quiet: bool = False,
               locked: bool = False) -> RunResult:
    """Run the recipe's selected stages; the delivered folder's path goes to stdout, unless that is to stay quiet.

    locked: only where the recipe points at what its lock says.
    """
    from dbrun.run.runner import execute
    from dbrun.ui.progress import make_reporter
    from dbrun.workers.env import check_launcher, read_distributed_env
    from dbrun.workers.launcher import WorkerGroup

    # threads that spin while they wait slow each other down manyfold on a busy machine; read when torch loads
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # what was imported so far stays, so it need not be searched
    gc.freeze()
    gc.enable()
    if (here := read_distributed_env(os.environ)) is not None and here.rank:
        join_run(here, asked)
    with closing(make_reporter(as_json)) as watch:
        try:
            loaded, resolved, store = read_request(asked, watch, decode=True)
            check_launcher(loaded.recipe, here, os.environ)
            if locked:
                resolved = _check_lock(loaded, resolved, store)
        except DbrunError as error:
            watch(RunFailed(None, error.message, error.fix, error.exit_code))
            raise
        worker_group = WorkerGroup(here.size if here else loaded.recipe.launch.processes, asked.words, here)
        outcome = execute(loaded, resolved, store, selection, emit=watch, overrides=asked.overrides,
                          worker_group=worker_group)
        if outcome.outputs is not None and not as_json and not quiet:
            print_result(str(outcome.outputs))
    return outcome


def _check_lock(loaded: LoadedRecipe, resolved: ResolvedSources, store: Store) -> ResolvedSources:
    """What a recipe points at, its base's commit included, which the lock must say too. Raises DbrunError."""
    from dbrun.resolve.lock import enforce_lock
    from dbrun.resolve.sources import pin_revision

    resolved = pin_revision(loaded, resolved, store)
    enforce_lock(loaded, resolved)
    return resolved


def join_run(here: DistributedEnv, asked: RecipeRequest) -> NoReturn:
    """Share the work of a run whose first process is another; ends this one when the run is over."""
    from dbrun.plan.planner import ALL_STAGES, Scope, make_scope
    from dbrun.resolve.sources import pin_revision
    from dbrun.workers.worker import run_worker

    def plan() -> Scope:
        loaded, resolved, store = read_request(asked, lambda event: None)
        return make_scope(loaded.recipe, pin_revision(loaded, resolved, store), store, ALL_STAGES, None)

    sys.exit(run_worker(here, plan))
