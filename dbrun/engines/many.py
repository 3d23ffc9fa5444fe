"""Many runs from Python: `jobs` and `submit`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from dbrun.api.request import FolderLike, RecipeLike, make_request
from dbrun.api.run import ignore_event
from dbrun.engines.base import JobReport
from dbrun.engines.job_graph import JobGraph
from dbrun.engines.planning import PlannedJobs, plan_jobs
from dbrun.engines.rows import read_rows, rows_of
from dbrun.engines.submit import find_engine, submit_to
from dbrun.events import Emit

Table = str | os.PathLike[str] | Iterable[Mapping[str, Any]]
"""Rows of overrides: the path of a file with one JSON object a line, or the objects themselves."""


def jobs(recipes: RecipeLike | Sequence[RecipeLike], *overrides: str, profiles: Sequence[str] = (),
         each: Table | None = None, sweeps: Sequence[str] = (), outputs: FolderLike = "outputs",
         store: FolderLike | None = None) -> JobGraph:
    """The jobs of many runs: shared work once, and one job for the rest of each run. Raises DbrunError.

    recipes: one file or several; overrides: of all of them; each: a run for each row; sweeps: `key=value,value` words.
    The plan is that of another machine: packages and GPUs of this one do not count.
    """
    return _plan(recipes, overrides, profiles, each, sweeps, outputs, store, elsewhere=True).graph


def submit(recipes: RecipeLike | Sequence[RecipeLike], *overrides: str, profiles: Sequence[str] = (),
           each: Table | None = None, sweeps: Sequence[str] = (), outputs: FolderLike = "outputs",
           store: FolderLike | None = None, engine: str = "local", gpus: int | None = None,
           on_event: Emit | None = None, cancel: threading.Event | None = None) -> Mapping[str, JobReport]:
    """Run the jobs of many runs that are missing; return how each ended, by its id.

    A failed job raises nothing: its report has the error. engine: the name of one; gpus: GPUs, or without GPUs
    processes, to use at a time; on_event: called with every event, in this thread; cancel: stops the jobs after a
    checkpoint when it is set; the rest as in `jobs`. Raises Interrupted then, and DbrunError where nothing can begin.
    """
    chosen = find_engine(engine)
    plan = _plan(recipes, overrides, profiles, each, sweeps, outputs, store, elsewhere=chosen.elsewhere)
    if plan.stop is not None:
        raise plan.stop
    with closing(chosen(plan.store.root, gpus)) as started:
        started.check()
        return dict(submit_to(started, plan.graph.jobs, on_event or ignore_event, cancel))


def _plan(recipes: RecipeLike | Sequence[RecipeLike], overrides: Sequence[str], profiles: Sequence[str],
          each: Table | None, sweeps: Sequence[str], outputs: FolderLike, store: FolderLike | None, *,
          elsewhere: bool) -> PlannedJobs:
    several = recipes if isinstance(recipes, list | tuple) else (recipes,)
    requests = [make_request(recipe, overrides, profiles, None, store) for recipe in several]
    rows = None
    if each is not None:
        rows = read_rows(Path(each)) if isinstance(each, str | os.PathLike) else rows_of(each)
    return plan_jobs(requests, rows=rows, sweeps=sweeps, outputs=Path(outputs), elsewhere=elsewhere)
