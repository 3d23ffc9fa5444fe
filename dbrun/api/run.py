"""Runs from Python: `run`, and the bases that stay in memory between two of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.api.request import FolderLike, RecipeLike, RecipeRequest, make_request, read_request
from dbrun.api.results import Run
from dbrun.errors import DbrunError, UsageError
from dbrun.events import Emit, RunFailed
from dbrun.plan.selection import Selection
from dbrun.stages.support.resident import ResidentBase

if TYPE_CHECKING:
    from dbrun.recipe.load import LoadedRecipe
    from dbrun.resolve.sources import ResolvedSources
    from dbrun.store.store import Store
    from dbrun.workers.env import DistributedEnv

WARM_BASES = ResidentBase(warm=True)
"""Components of the last base that the runs of this process have used; a stage takes them in its turn."""


def run(recipe: RecipeLike, *overrides: str, profiles: Sequence[str] = (), folder: FolderLike | None = None,
        outputs: FolderLike = "outputs", store: FolderLike | None = None, on_event: Emit | None = None,
        cancel: threading.Event | None = None, until: str | None = None, from_: str | None = None,
        only: str | None = None, force: Iterable[str] = (), locked: bool = False) -> Run:
    """Run the stages of a recipe whose results are not in the store, and deliver the export to outputs/NAME.

    recipe: the path of a file, or the recipe's data; overrides: `key=value` words; profiles: those of the recipe to
    apply; folder: where relative paths of data and overrides start, by default the current folder; outputs: the folder
    for the delivered folders; store: that of results, by default $DBRUN_STORE or .dbrun; on_event: called with every
    event, in this thread; cancel: stops the run after a checkpoint when it is set; until, from_, only, force: names of
    stages, as `dbrun run --help` explains them; locked: compare the recipe with its lock file first.

    May be called from several threads: reading and planning go on side by side, the stages take turns. The base stays
    in memory for the next call, see `release`. Raises Cancelled, and DbrunError for all else that is wrong.
    """
    from dbrun.workers.env import has_launcher

    if has_launcher(os.environ):
        raise UsageError("a launcher started this process, and `dbrun.run` works for itself only",
                         fix="start `dbrun run` with the launcher, or set `launch.processes` in the recipe")
    request = make_request(recipe, overrides, profiles, folder, store)
    selection = Selection(until, from_, only, tuple(force))
    emit = on_event or ignore_event
    return run_read(read_run(request, emit, locked=locked), selection, emit, outputs=Path(outputs), cancel=cancel,
                    resident=WARM_BASES)


def ignore_event(event: object) -> None:
    """Listener for callers that want no events."""


def release() -> None:
    """Free the memory of the bases that earlier runs have left there; waits for a stage that is running."""
    from dbrun.run.turns import take_turn

    with take_turn():
        WARM_BASES.forget()


@dataclass(frozen=True)
class ReadRun:
    """A request that has been read and can be run. size: number of processes; launched: place of this one among those
    of a launcher, None without one."""

    request: RecipeRequest
    loaded: LoadedRecipe
    resolved: ResolvedSources
    store: Store
    size: int
    launched: DistributedEnv | None


def read_run(request: RecipeRequest, emit: Emit, *, locked: bool = False, launched: DistributedEnv | None = None,
             reading: AbstractContextManager[None] | None = None) -> ReadRun:
    """Read a request to run it. Raises DbrunError, after the event RunFailed.

    locked: compare the recipe with its lock; reading: entered while the pictures and the base are read.
    """
    from dbrun.workers.env import check_launcher

    try:
        store = request.open_store()
        loaded, resolved = read_request(request, store, emit, decode=True, reading=reading,
                                        processes=launched.size if launched else 1)
        check_launcher(loaded.recipe, launched, os.environ)
        size = launched.size if launched else loaded.recipe.launch.processes
        _check_shareable(request, size)
        if locked:
            resolved = _check_lock(loaded, resolved, store)
    except DbrunError as error:
        # `execute` reports its own failures; programs that read events need this one, too.
        emit(RunFailed.by(error))
        raise
    return ReadRun(request, loaded, resolved, store, size, launched)


def run_read(read: ReadRun, selection: Selection, emit: Emit, *, outputs: Path, cancel: threading.Event | None,
             resident: ResidentBase | None = None) -> Run:
    """Run what `read_run` has read. resident: components in memory, none by default. Raises DbrunError, see `run`."""
    from dbrun.run.runner import execute
    from dbrun.ui.report.live import LiveReport
    from dbrun.workers.launcher import WorkerGroup

    worker_group = WorkerGroup(read.size, read.request.words, read.launched)
    done = execute(read.loaded, read.resolved, read.store, selection, emit=LiveReport(emit, read.store),
                   overrides=read.request.overrides, outputs=outputs, worker_group=worker_group, cancel=cancel,
                   resident=resident, render_report=_render_report)
    return Run.finished(done.folder, read.loaded.recipe.name, done.finished)


def _render_report(store: Store, run_id: str) -> bytes:
    """The report that is delivered with a run's results."""
    # imported here: a run that delivers nothing starts without the templates
    from dbrun.ui.report.run_page import render_finished

    return render_finished(store, run_id)


def _check_shareable(request: RecipeRequest, processes: int) -> None:
    """Raise UsageError where other processes would have to read a recipe that is in no file."""
    if processes > 1 and request.text is not None:
        raise UsageError(f"found {processes} processes, but this recipe is in no file from which the others could "
                         "read it", fix="write the recipe into a file and run that")


def _check_lock(loaded: LoadedRecipe, resolved: ResolvedSources, store: Store) -> ResolvedSources:
    """What the recipe points at, with the commit of its base. Raises DbrunError if the lock says something else."""
    from dbrun.resolve.lock import enforce_lock
    from dbrun.resolve.sources import pin_revision

    resolved = pin_revision(loaded, resolved, store)
    enforce_lock(loaded, resolved)
    return resolved
