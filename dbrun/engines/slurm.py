"""The engine `slurm`: each job is a batch job of Slurm, which orders, places and restarts it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from dbrun.engines.base import Engine, Job, JobReport, JobState
from dbrun.engines.scripts import batch_text, sbatch_options
from dbrun.errors import StageFailed, UsageError
from dbrun.secrets import redact_secrets
from dbrun.store.canonical import digest

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")
SECONDS_BETWEEN_QUERIES = 10.0
"""Time between two calls of squeue: the controller serves a whole cluster."""
PATIENCE = 300.0
"""Seconds for which squeue may fail, as while a controller is restarted."""
LOG_BYTES = 4000
"""End of a failed job's log in which its error is looked for."""
TAG_DIGITS = 16
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD",
                     "SPECIAL_EXIT"})
RUNNING = frozenset({"RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"})
STOPPED = frozenset({"CANCELLED", "PREEMPTED", "REVOKED"})
"""States of Slurm; COMPLETED is the one that succeeded, all others are failures."""
HELD = "held"
"""Word in the reasons of jobs that wait until somebody releases them."""
FAILURES = {
    "OUT_OF_MEMORY": ("it took more memory than Slurm gave it", "ask for more: SBATCH_MEM_PER_NODE=32G"),
    "TIMEOUT": ("its time was over before it had saved a checkpoint", "ask for more: SBATCH_TIMELIMIT=120"),
    "NODE_FAIL": ("its node failed", None),
    "BOOT_FAIL": ("its node could not be started", None),
    "DEADLINE": ("it would not have ended before the cluster's deadline", None),
}
"""State of Slurm → what happened and what to do about it; other failures tell it in the log."""


@dataclass(frozen=True)
class _Entry:
    """A job as Slurm lists it. seconds: wall time of its last start; tag: as `_tag` gave it; reason: why it waits."""

    number: str
    state: str
    seconds: float | None
    tag: str
    reason: str


class SlurmEngine(Engine):
    """Batch jobs of Slurm. They go on when this process ends; jobs that the queue has already are followed again."""

    NAME: ClassVar[str] = "slurm"
    SUMMARY: ClassVar[str] = "batch jobs of a cluster"
    outlives: ClassVar[bool] = True

    def __init__(self, store: Path, gpus: int | None = None) -> None:
        super().__init__(store, gpus)
        self._logs = store / "slurm"
        self._jobs: dict[str, Job] = {}
        self._numbers: dict[str, str] = {}
        self._reports: dict[str, JobReport] = {}
        self._queued: dict[str, str] = {}
        self._queried = float("-inf")
        self._answered = time.monotonic()

    def check(self) -> None:
        """Raise UsageError where a program of Slurm is missing, or its controller does not answer."""
        if self.gpus is not None:
            raise UsageError("found --gpus, and Slurm itself shares out GPUs",
                             fix="leave it out; a limit for one user is a setting of the cluster")
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            raise UsageError(f"the engine slurm needs {', '.join(missing)}, and this machine has no such program",
                             fix="type the command on a machine that submits to the cluster, or install slurm-client")
        try:
            entries = list(_query())
        except StageFailed as error:
            raise UsageError(error.message, fix="`sinfo` shows whether the cluster is up") from None
        # one that is ending may have been cancelled, and is submitted again
        self._queued = {entry.tag: entry.number for entry in entries
                        if entry.state in WAITING | RUNNING and entry.state != "COMPLETING"}

    def submit(self, job: Job) -> None:
        """Hand a job to sbatch, unless the queue has it. Raises StageFailed with the words of sbatch if it refuses."""
        if job.id in self._jobs:
            return
        # ten thousand jobs take minutes, in which Slurm forgets the first ones, and takes forgotten ones for successes
        self.poll(0.0)
        unmet = self._unmet(job)
        if unmet is None:
            tag = self._tag(job)
            self._numbers[job.id] = self._queued.get(tag) or self._sbatch(job, tag)
        self._jobs[job.id], self._reports[job.id] = job, unmet or JobReport(JobState.WAITING)

    def poll(self, timeout: float) -> Mapping[str, JobReport]:
        """Ask Slurm at most every few seconds. Raises StageFailed if it has not answered for minutes."""
        wait = self._queried + SECONDS_BETWEEN_QUERIES - time.monotonic()
        if wait > timeout:
            time.sleep(timeout)
            return dict(self._reports)
        time.sleep(max(0.0, wait))
        self._queried = time.monotonic()
        try:
            listed = {entry.number: entry for entry in _query()}
        except StageFailed as error:
            if time.monotonic() - self._answered > PATIENCE:
                raise StageFailed(f"{error.message} (for {PATIENCE / 60:.0f} minutes)",
                                  fix="submitted jobs go on; the same command follows them again") from None
            return dict(self._reports)
        self._answered = self._queried
        open_jobs = [name for name, report in self._reports.items() if not report.state.is_final]
        forgotten = [self._numbers[name] for name in open_jobs if self._numbers[name] not in listed]
        listed.update((entry.number, entry) for entry in _accounted(forgotten))
        # in the order of submission: whether a job was skipped depends on those before it
        for name in open_jobs:
            self._reports[name] = self._report(self._jobs[name], listed.get(self._numbers[name]))
        return dict(self._reports)

    def cancel(self) -> None:
        """Cancel all jobs that have not ended; Slurm sends SIGTERM to those that run, and kills them 30 s later."""
        numbers = [self._numbers[name] for name, report in self._reports.items() if not report.state.is_final]
        if numbers:
            _call(["scancel", *numbers])

    def _tag(self, job: Job) -> str:
        """Comment by which the queue's jobs are recognised. The job's id alone would also be that of another store."""
        return f"dbrun-{digest([job.id, str(Path.cwd()), str(self.store), str(job.outputs)])[:TAG_DIGITS]}"

    def _log(self, job: Job) -> Path:
        return self._logs / f"{job.id}.log"

    def _sbatch(self, job: Job, tag: str) -> str:
        self._logs.mkdir(parents=True, exist_ok=True)
        # %j and the like would stand for something else in a path
        log = str(self._log(job)).replace("%", "%%")
        words = ["sbatch", "--parsable", *sbatch_options(job), f"--comment={tag}", f"--output={log}",
                 "--open-mode=append"]
        after = [self._numbers[name] for name in job.needs if self._reports[name].state is not JobState.DONE]
        if after:
            words.append(f"--dependency=afterok:{':'.join(after)}")
        # this very dbrun: the node's own PATH may have another one first
        command = (sys.executable, "-m", *job.command)
        try:
            answer = _call(words, batch_text(command))
        except StageFailed as error:
            raise StageFailed(f"{job.title}: {error.message}",
                              fix=f"{len(self._jobs):,} jobs were submitted before; the same command goes on") from None
        # a cluster's name may follow the number
        return answer.strip().partition(";")[0]

    def _unmet(self, job: Job) -> JobReport | None:
        """The report of a job that needs one that did not succeed; None if it may still run."""
        for name in job.needs:
            state = self._reports[name].state
            if state.is_final and state is not JobState.DONE:
                return JobReport(JobState.SKIPPED, f"it needs {self._jobs[name].title}")
        return None

    def _report(self, job: Job, entry: _Entry | None) -> JobReport:
        before = self._reports[job.id]
        if entry is None:
            return replace(before, state=JobState.STOPPED, text="Slurm no longer knows it",
                           fix="the same command tells whether its result stands")
        if entry.state in WAITING:
            text = before.text
            if before.state is JobState.RUNNING:
                text = "Slurm starts it again"
            elif HELD in entry.reason.lower():
                text = f"held by Slurm ({entry.reason}): scontrol release {entry.number}"
            return replace(before, state=JobState.WAITING, text=text)
        if entry.state in RUNNING:
            attempts = before.attempts + (before.state is not JobState.RUNNING)
            return JobReport(JobState.RUNNING, seconds=entry.seconds, attempts=attempts)
        ended = replace(before, text="", seconds=entry.seconds or before.seconds)
        if entry.state == "COMPLETED":
            return replace(ended, state=JobState.DONE)
        if entry.state in STOPPED:
            return self._unmet(job) or replace(ended, state=JobState.STOPPED, text=f"Slurm says {entry.state}")
        text, fix = FAILURES.get(entry.state) or _logged_error(self._log(job))
        return replace(ended, state=JobState.FAILED, text=text, fix=fix)


def _call(words: Sequence[str], text: str | None = None) -> str:
    """Output of a program of Slurm. Raises StageFailed with its own words if it fails."""
    done = subprocess.run(words, input=text, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise StageFailed(redact_secrets(said if said.startswith(words[0]) else f"{words[0]}: {said}"))
    return done.stdout


def _query() -> Iterator[_Entry]:
    """This user's jobs: those that wait or run, and for some minutes those that have ended."""
    listed = _call(["squeue", "--me", "--states=all", "--noheader", "--format=%i|%T|%M|%k|%r"])
    for line in listed.splitlines():
        number, state, elapsed, tag, reason = line.split("|", 4)
        yield _Entry(number, state, _seconds(elapsed), tag, reason)


def _accounted(numbers: Sequence[str]) -> Iterator[_Entry]:
    """Ended jobs that squeue no longer lists, from the accounting; none where the cluster keeps none."""
    if not numbers or shutil.which("sacct") is None:
        return
    try:
        listed = _call(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(numbers)}",
                        "--format=JobID,State,Elapsed"])
    except StageFailed:
        return
    for line in listed.splitlines():
        number, state, elapsed = line.split("|")
        # "CANCELLED by 1000"
        yield _Entry(number, state.partition(" ")[0], _seconds(elapsed), "", "")


def _seconds(elapsed: str) -> float | None:
    """Seconds of a time such as 1-02:03:04 or 3:04; None for none."""
    days, dash, clock = elapsed.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in (*parts, *([days] if dash else []))):
        return None
    seconds = int(days or 0) * 86400
    for weight, part in zip((1, 60, 3600), reversed(parts), strict=False):
        seconds += weight * int(part)
    return float(seconds) or None


def _logged_error(log: Path) -> tuple[str, str | None]:
    """The error at the end of a job's log and its fix; the last line where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_BYTES))
            lines = [line.rstrip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return f"its log {log} cannot be read", None
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if not starts:
        last = next((line for line in reversed(lines) if line), "nothing")
        return f"it failed; the last line of its log is {last}", f"see {log}"
    message, *rest = lines[starts[-1]:]
    fixes = [line.strip().removeprefix("→ ") for line in rest if line.startswith("  → ")]
    return message.removeprefix("error: "), fixes[-1] if fixes else f"see {log}"
