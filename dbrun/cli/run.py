"""The work of the verbs `run` and `stage`, and the reading of a recipe that most verbs begin with."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dbrun.api import request as api
from dbrun.errors import UsageError
from dbrun.events import Emit
from dbrun.store.store import Store
from dbrun.ui.terminal import print_result, print_status
from dbrun.ui.waiting import show_elapsed

if TYPE_CHECKING:
    from dbrun.api.request import RecipeRequest
    from dbrun.api.results import Run
    from dbrun.plan.selection import Selection
    from dbrun.recipe.load import LoadedRecipe
    from dbrun.recipe.schema.model import Recipe
    from dbrun.resolve.sources import ResolvedSources
    from dbrun.workers.env import DistributedEnv

READING = "reading the pictures and the base"


def read_request(request: RecipeRequest, emit: Emit | None = None, *,
                 decode: bool = False, processes: int = 1) -> tuple[LoadedRecipe, ResolvedSources, Store]:
    """The requested recipe, what its paths point at, and its store. Raises DbrunError.

    emit: given by commands that run the recipe, see `dbrun.api.request.read_request`; decode: decode every picture
    completely, to find damaged ones; processes: the number that a launcher started to share the run.
    """
    store = request.open_store()
    if store.remote is not None:
        # a run sends it to its own listener instead
        store.remote.listen(lambda stage, text, level: print_status(text))
    loaded, resolved = api.read_request(request, store, emit, decode=decode, reading=show_elapsed(READING),
                                        processes=processes)
    return loaded, resolved, store


def run_recipe(request: RecipeRequest, selection: Selection, *, as_json: bool, quiet: bool = False,
               locked: bool = False, outputs: Path = Path("outputs"), junit: Path | None = None) -> Run:
    """Run the recipe's selected stages; print the path of the delivered folder to stdout, unless quiet.

    locked: raise if the recipe does not match its lock; outputs: the folder for delivered folders; junit: the file for
    what became of the recipe's expectations. Raises DbrunError.
    """
    from dbrun.api.run import read_run, run_read
    from dbrun.run.signals import stop_signals
    from dbrun.ui.progress import make_reporter
    from dbrun.workers.env import clear_launcher_variables, let_idle_threads_sleep, read_distributed_env

    let_idle_threads_sleep()
    # Imported modules stay for good, so the collector need not search them.
    gc.freeze()
    gc.enable()
    # Under a launcher (torchrun), processes other than the first only share the work of its stages.
    launched = read_distributed_env(os.environ)
    if launched is not None and launched.rank:
        join_run(launched, request)
    with closing(make_reporter(as_json)) as reporter:
        read = read_run(request, reporter, locked=locked, launched=launched, reading=show_elapsed(READING))
        # what `accelerate launch` says to a single process has been checked; libraries that find it would follow it
        if launched is None:
            clear_launcher_variables(os.environ)
        if junit is not None:
            check_junit(junit, read.loaded.recipe)
        with stop_signals() as cancel:
            done = run_read(read, selection, reporter, outputs=outputs, cancel=cancel)
        if done.outputs is not None and not as_json and not quiet:
            print_result(str(done.outputs))
    if junit is not None:
        from dbrun.ui.junit import write_junit

        write_junit(junit, done.name, done.expectations, done.seconds)
    return done


def refuse_below_expectation(done: Run) -> None:
    """Raise ExpectationMissed if a score of a finished run is not what its recipe expects."""
    if done.is_below_expectation:
        from dbrun.ui.scores import missed_error

        raise missed_error(done.expectations, done.outputs)


def check_junit(path: Path, recipe: Recipe) -> None:
    """Raise UsageError for a recipe that expects nothing, and for a file that could not be written."""
    from dbrun.ui.junit import check_junit_path

    if recipe.evaluate is None or recipe.evaluate.expect is None:
        raise UsageError(f"found --junit {path}, but the recipe expects nothing of its scores",
                         fix="write `expect: {subject: \">= 0.7\"}` under `evaluate`, or leave --junit out")
    check_junit_path(path)


def join_run(here: DistributedEnv, request: RecipeRequest) -> NoReturn:
    """Work for the run that the process of rank 0 leads, then exit this process. here: its rank and size."""
    from dbrun.plan.planner import ALL_STAGES, Scope, make_scope
    from dbrun.resolve.sources import pin_revision
    from dbrun.workers.worker import run_worker

    def plan() -> Scope:
        loaded, resolved, store = read_request(request, lambda event: None, processes=here.size)
        return make_scope(loaded.recipe, pin_revision(loaded, resolved, store), store, ALL_STAGES, None)

    sys.exit(run_worker(here, plan))
