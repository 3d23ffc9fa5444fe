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


def read_request(request: RecipeRequest, emit: Emit | None = None, *,
                 decode: bool = False) -> tuple[LoadedRecipe, ResolvedSources, Store]:
    """The requested recipe, what its paths point at, and the store of the current folder. Raises DbrunError.

    emit: given by commands that run the recipe; data sets are then fetched from the Hub, with progress sent to emit;
    decode: decode every picture completely, to find damaged ones.
    """
    loaded, problems = load_with_problems(request.recipe, request.overrides, request.profiles)
    store = current_store()
    # Only `run` fetches: a command that reads must neither download nor write.
    if emit is not None and not problems and any(one.revision for one in loaded.recipe.subjects_by_key.values()):
        from dbrun.resolve.datasets import fetch_datasets

        fetch_datasets(loaded, store, emit)
    with show_elapsed("reading the pictures and the base"):
        resolved = resolve_sources(loaded, store, decode, problems)
    # A recipe rebuilt from an exported file: say where this machine differs from what the export was made with.
    if loaded.path.suffix == EXPORT_SUFFIX:
        from dbrun.plan.provenance_diff import provenance_notes
        from dbrun.safetensors_header import read_provenance

        new_notes = provenance_notes(read_provenance(loaded.path), loaded.recipe, resolved)
        resolved = replace(resolved, notes=(*resolved.notes, *new_notes))
    return loaded, resolved, store


def run_recipe(request: RecipeRequest, selection: Selection, *, as_json: bool, quiet: bool = False,
               locked: bool = False) -> RunResult:
    """Run the recipe's selected stages; print the path of the delivered folder to stdout, unless quiet.

    locked: raise if the recipe does not match its lock. Raises DbrunError.
    """
    from dbrun.run.runner import execute
    from dbrun.ui.progress import make_reporter
    from dbrun.ui.report.live import LiveReport
    from dbrun.workers.env import check_launcher, read_distributed_env
    from dbrun.workers.launcher import WorkerGroup

    # Threads that spin while they wait slow each other down manyfold on a busy machine. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported modules stay for good, so the collector need not search them.
    gc.freeze()
    gc.enable()
    # Under a launcher (torchrun), processes other than the first only share the work of its stages.
    launched = read_distributed_env(os.environ)
    if launched is not None and launched.rank:
        join_run(launched, request)
    with closing(make_reporter(as_json)) as reporter:
        try:
            loaded, resolved, store = read_request(request, reporter, decode=True)
            check_launcher(loaded.recipe, launched, os.environ)
            if locked:
                resolved = _check_lock(loaded, resolved, store)
        except DbrunError as error:
            # `execute` reports its own failures; programs that read events need this one, too.
            reporter(RunFailed(None, error.message, error.fix, error.exit_code))
            raise
        size = launched.size if launched else loaded.recipe.launch.processes
        worker_group = WorkerGroup(size, request.words, launched)
        result = execute(loaded, resolved, store, selection, emit=LiveReport(reporter, store),
                         overrides=request.overrides, worker_group=worker_group, render_report=_render_report)
        if result.outputs is not None and not as_json and not quiet:
            print_result(str(result.outputs))
    return result


def _render_report(store: Store, run_id: str) -> bytes:
    """The report that is delivered with a run's results."""
    # imported here: a run that delivers nothing starts without the templates
    from dbrun.ui.report.run_page import render_finished

    return render_finished(store, run_id)


def _check_lock(loaded: LoadedRecipe, resolved: ResolvedSources, store: Store) -> ResolvedSources:
    """What the recipe points at, with the commit of its base. Raises DbrunError if the lock says something else."""
    from dbrun.resolve.lock import enforce_lock
    from dbrun.resolve.sources import pin_revision

    resolved = pin_revision(loaded, resolved, store)
    enforce_lock(loaded, resolved)
    return resolved


def join_run(here: DistributedEnv, request: RecipeRequest) -> NoReturn:
    """Work for the run that the process of rank 0 leads, then exit this process. here: its rank and size."""
    from dbrun.plan.planner import ALL_STAGES, Scope, make_scope
    from dbrun.resolve.sources import pin_revision
    from dbrun.workers.worker import run_worker

    def plan() -> Scope:
        loaded, resolved, store = read_request(request, lambda event: None)
        return make_scope(loaded.recipe, pin_revision(loaded, resolved, store), store, ALL_STAGES, None)

    sys.exit(run_worker(here, plan))
