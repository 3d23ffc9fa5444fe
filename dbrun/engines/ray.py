"""The engine `ray`: each job is a task of a Ray cluster, which orders, places and restarts it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from dbrun.engines.base import Engine, Job, JobReport, JobState
from dbrun.engines.run_job import Outcome, job_words, run_job
from dbrun.engines.scripts import MEMORY_SLACK
from dbrun.errors import UsageError
from dbrun.options.packages import OptionalPackage
from dbrun.run.signals import stop_signals
from dbrun.secrets import redact_secrets
from dbrun.store.remote_settings import MODE_VARIABLE
from dbrun.store.store import URL_VARIABLE

PACKAGE = OptionalPackage("ray", "ray", "ray")
PASSED_ON = (URL_VARIABLE, MODE_VARIABLE)
"""Variables that tasks get from this process; all others, credentials too, are those that the nodes have."""
BOARD_SECONDS = 10.0
"""Time that the board gets to answer, before the engine goes on without news."""


class RayEngine(Engine):
    """Tasks of a Ray cluster. They end with this process; Ray starts a task again whose node is lost."""

    NAME: ClassVar[str] = "ray"
    SUMMARY: ClassVar[str] = "tasks of a Ray cluster"

    def __init__(self, store: Path, gpus: int | None = None) -> None:
        super().__init__(store, gpus)
        self._ray: Any = None
        self._board: Any = None
        self._jobs: dict[str, Job] = {}
        self._refs: dict[str, Any] = {}
        self._open: dict[Any, str] = {}
        self._began: dict[str, float] = {}
        self._reports: dict[str, JobReport] = {}

    def check(self) -> None:
        """Connect to the cluster of $RAY_ADDRESS, or of this machine. Raises UsageError where there is none."""
        if self.gpus is not None:
            raise UsageError("found --gpus, and Ray itself shares out GPUs", fix="leave it out")
        if not PACKAGE.is_installed:
            raise UsageError("the engine ray needs the package ray, and it is not installed",
                             fix=PACKAGE.install_command)
        import ray

        try:
            ray.init(address=os.environ.get("RAY_ADDRESS") or "auto", log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"no Ray cluster answers: {redact_secrets(str(error))}",
                             fix="start one with `ray start --head`, or set RAY_ADDRESS") from None
        self._ray = ray
        self._board = ray.remote(num_cpus=0, max_restarts=-1)(Board).remote()

    def submit(self, job: Job) -> None:
        """Hand a job to Ray, with the outcomes of those that it needs as its arguments."""
        if job.id in self._jobs:
            return
        # with a GPU a fresh process for each job: torch goes on using the first GPU that it saw
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": job.gpus, "max_retries": -1,
                                   "max_calls": 1 if job.gpus else 0}
        if job.memory is not None and not job.gpus:
            options["memory"] = round(job.memory * MEMORY_SLACK)
        call = {**job_words(job, self.store), "id": job.id, "folder": str(Path.cwd()),
                "environment": {name: os.environ[name] for name in PASSED_ON if name in os.environ}}
        needed = [self._refs[name] for name in job.needs]
        ref = self._ray.remote(**options)(run_as_task).remote(call, self._board, *needed)
        self._jobs[job.id], self._refs[job.id], self._open[ref] = job, ref, job.id
        self._reports[job.id] = JobReport(JobState.WAITING)

    def poll(self, timeout: float) -> Mapping[str, JobReport]:
        """Wait for the end of a task, then take what the others tell."""
        if self._open:
            self._ray.wait(list(self._open), num_returns=1, timeout=timeout)
            self._take_progress()
            ended, _ = self._ray.wait(list(self._open), num_returns=len(self._open), timeout=0)
            # in the order of submission, in which `wait` gives them: whether a job was skipped depends on those before
            for ref in ended:
                name = self._open.pop(ref)
                self._reports[name] = self._ended(self._jobs[name], ref)
        return dict(self._reports)

    def cancel(self) -> None:
        """Interrupt all tasks, which save a checkpoint first; those that wait do not begin."""
        for ref in self._open:
            self._ray.cancel(ref, recursive=False)

    def close(self) -> None:
        """Leave the cluster, which ends what still runs."""
        if self._ray is not None:
            self._ray.shutdown()

    def _take_progress(self) -> None:
        try:
            told = self._ray.get(self._board.take.remote(), timeout=BOARD_SECONDS)
        except self._ray.exceptions.RayError:
            # its node was lost, and Ray starts it on another
            return
        for name, (starts, text) in told.items():
            if self._reports[name].state.is_final:
                continue
            before = self._reports[name]
            self._began.setdefault(name, time.monotonic())
            seconds = round(time.monotonic() - self._began[name], 3)
            self._reports[name] = JobReport(JobState.RUNNING, text or before.text, None, seconds,
                                            before.attempts + starts)

    def _ended(self, job: Job, ref: Any) -> JobReport:
        began = self._began.get(job.id)
        seconds = round(time.monotonic() - began, 3) if began is not None else None
        report = replace(self._reports[job.id], text="", seconds=seconds)
        unmet = [name for name in job.needs if self._reports[name].state is not JobState.DONE]
        if unmet:
            return JobReport(JobState.SKIPPED, f"it needs {self._jobs[unmet[0]].title}")
        try:
            outcome: Outcome = self._ray.get(ref)
        except self._ray.exceptions.TaskCancelledError:
            return replace(report, state=JobState.STOPPED)
        except self._ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            return replace(report, state=JobState.FAILED, text=f"Ray could not run it: {redact_secrets(last)}",
                           fix="the nodes need this version of dbrun, the recipe and the store at the same paths")
        return replace(report, state=JobState.of_exit_code(outcome["ended"]), text=outcome["text"], fix=outcome["fix"])


class Board:
    """Actor: keeps what running jobs tell until the engine takes it."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[int, str]] = {}

    def tell(self, job: str, text: str, starts: int = 0) -> None:
        """Keep the latest text of a job. starts: 1 when it begins."""
        self._told[job] = (self._told.get(job, (0, ""))[0] + starts, text)

    def take(self) -> dict[str, tuple[int, str]]:
        """What was told since the last call: job → how often it began, and its latest text."""
        told, self._told = self._told, {}
        return told


def run_as_task(call: Mapping[str, Any], board: Any, *needed: Outcome) -> Outcome:
    """Task of Ray: run one job, or nothing where one that it needs did not succeed."""
    for outcome in needed:
        if outcome["ended"]:
            return outcome
    board.tell.remote(call["id"], "", 1)
    os.environ.update(call["environment"])
    os.chdir(call["folder"])
    # Ray cancels a task by an interrupt of its main thread, which arrives here as Ctrl-C
    with stop_signals() as stop:
        return run_job(call, stop, lambda text: board.tell.remote(call["id"], text))
