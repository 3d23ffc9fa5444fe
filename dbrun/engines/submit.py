"""Submission of a graph of jobs to an engine, and the following of it to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from dbrun.engines.base import Engine, Job, JobReport, JobState, engines
from dbrun.engines.local import LocalEngine
from dbrun.errors import Interrupted, StageFailed, UsageError
from dbrun.events import Emit, JobChanged, JobsFinished
from dbrun.recipe.checks.suggestions import nearest
from dbrun.run.signals import stop_signum

POLL_SECONDS = 1.0
"""Seconds that an engine may wait for news at a time; a Ctrl-C is answered within them."""
SAME_COMMAND = "the same command goes on with what is missing"


def find_engine(name: str) -> type[Engine]:
    """The engine of this name. Raises UsageError."""
    known = engines()
    if name in known:
        return known[name]
    listed = ", ".join(f"{one.NAME} ({one.SUMMARY})" for one in known.values())
    raise UsageError(f"found --engine {name!r}; allowed are {listed}",
                     fix=f"write --engine {nearest(name, known) or LocalEngine.NAME}")


def submit_to(engine: Engine, jobs: Sequence[Job], emit: Emit, cancel: threading.Event | None = None, *,
              follow: bool = True) -> Mapping[str, JobReport]:
    """Submit jobs and follow them to their end; return the last report of each by its id.

    Raises Interrupted if `cancel` is set: an engine of this process has then stopped its jobs after a checkpoint.
    follow: False to return when all are submitted.
    """
    began = time.monotonic()
    for job in jobs:
        engine.submit(job)
    if not follow:
        return engine.poll(0.0)
    known: dict[str, JobReport] = {}
    is_stopping = False
    while not all(job.id in known and known[job.id].state.is_final for job in jobs):
        signum = stop_signum(cancel)
        if signum and not is_stopping:
            if engine.outlives:
                raise Interrupted(signum, f"the jobs go on in {engine.NAME}; the same command follows them again")
            is_stopping = True
            engine.cancel()
        _tell_changes(jobs, engine.poll(POLL_SECONDS), known, emit)
    emit(JobsFinished(tuple(_ended(job, known[job.id]) for job in jobs), round(time.monotonic() - began, 3)))
    if is_stopping:
        raise Interrupted(stop_signum(cancel), f"interrupted; {SAME_COMMAND}")
    return known


def check_ended(jobs: Sequence[Job], reports: Mapping[str, JobReport]) -> None:
    """Raise StageFailed if any followed job did not succeed."""
    failed = [job for job in jobs if reports[job.id].state is not JobState.DONE]
    if failed:
        raise StageFailed(f"{len(failed):,} of {len(jobs):,} jobs did not succeed", fix=SAME_COMMAND)


def _tell_changes(jobs: Sequence[Job], reports: Mapping[str, JobReport], known: dict[str, JobReport],
                  emit: Emit) -> None:
    for job in jobs:
        report = reports[job.id]
        if report != known.get(job.id):
            known[job.id] = report
            emit(JobChanged(job.id, job.title, job.runs, report.state.value, report.text, report.fix, report.seconds))


def _ended(job: Job, report: JobReport) -> dict[str, object]:
    return {"job": job.id, "title": job.title, "runs": list(job.runs), "state": report.state.value,
            "text": report.text, "fix": report.fix, "seconds": report.seconds}
