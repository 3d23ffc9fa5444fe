"""A job, and the engines that run jobs: submit, poll and cancel over a scheduler that exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.config_types import subclasses

if TYPE_CHECKING:
    from dbrun.api.request import RecipeRequest

DEFAULT_OUTPUTS = Path("outputs")
SIGNAL_EXIT = 128
"""Exit codes above it stand for a signal."""


class JobStatus(StrEnum):
    """What a job has to do: run stages, resume unfinished ones, only deliver a result that stands, or nothing because
    it cannot."""

    RUN = "run"
    RESUME = "resume"
    DELIVER = "deliver"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class Job:
    """Work that is one process of an engine: an ordinary dbrun command, which does nothing where its results stand.

    id: a file name, made of what the work depends on, and so the same in the next command; stages: those that it runs,
    in order; runs: names of the runs that need it; needs: ids of the jobs that must have succeeded before; gpus: number
    of GPUs, 0 where it computes on the CPU; memory: peak bytes on the device; seconds: wall time; both going by earlier
    runs, None if unknown; until: last stage that it runs, None for a whole run with its delivery; base: the same for
    jobs that work on the same base.
    """

    id: str
    stages: tuple[str, ...]
    runs: tuple[str, ...]
    status: JobStatus
    needs: tuple[str, ...]
    gpus: int
    memory: int | None
    seconds: float | None
    request: RecipeRequest
    until: str | None
    outputs: Path
    base: str

    @property
    def command(self) -> tuple[str, ...]:
        """The job as words of a command line, to be typed in the folder that it was planned in."""
        if self.until is not None:
            return ("dbrun", "stage", self.until, *self.request.words)
        outputs = () if self.outputs == DEFAULT_OUTPUTS else ("--outputs", str(self.outputs))
        return ("dbrun", "run", *self.request.words, *outputs)

    @property
    def title(self) -> str:
        """Name for people: the run's own, or the stages and how many runs share them."""
        if self.until is None:
            return self.runs[0]
        return f"{' + '.join(self.stages)} for {len(self.runs):,} runs"

    def to_json(self) -> dict[str, object]:
        """The job as plain data."""
        return {"id": self.id, "stages": list(self.stages), "runs": list(self.runs), "status": self.status.value,
                "needs": list(self.needs), "gpus": self.gpus, "memory": self.memory, "seconds": self.seconds,
                "command": list(self.command)}


class JobState(StrEnum):
    """State of a submitted job. STOPPED: ended by a signal or a cancel, its work so far is kept; SKIPPED: a job that it
    needs did not succeed."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    SKIPPED = "skipped"

    @classmethod
    def of_exit_code(cls, code: int) -> JobState:
        """The state of a job that ended with an exit code of dbrun; those above 128 stand for a signal."""
        if code == 0:
            return cls.DONE
        return cls.STOPPED if code > SIGNAL_EXIT else cls.FAILED

    @property
    def is_final(self) -> bool:
        """Whether the job will not run any more."""
        return self not in (JobState.WAITING, JobState.RUNNING)


@dataclass(frozen=True)
class JobReport:
    """What an engine knows of a job. text: progress of a running job, the error of one that failed; fix: what to do
    about it; seconds: wall time so far, None if unknown; attempts: how often it was started."""

    state: JobState
    text: str = ""
    fix: str | None = None
    seconds: float | None = None
    attempts: int = 0


class Engine:
    """A scheduler that runs jobs. Each subclass has a file of its own in `dbrun/engines` and sets NAME.

    Submitted jobs wait for those that they need; `submit` is called in an order in which they can run. A job may run
    twice: its results are content-addressed, and the second finds those of the first.
    """

    NAME: ClassVar[str]
    SUMMARY: ClassVar[str]
    """The engine in a few words, for people who choose one."""
    outlives: ClassVar[bool] = False
    """Whether submitted jobs go on when this process ends; else cancelling is part of Ctrl-C."""

    elsewhere: ClassVar[bool] = True
    """Whether other machines run the jobs, so that this one's packages and devices do not count in the plan."""

    def __init__(self, store: Path, gpus: int | None = None) -> None:
        """store: folder of the store; gpus: number of GPUs to use at a time, None for what there is."""
        self.store, self.gpus = store, gpus

    def check(self) -> None:
        """Raise UsageError where a program or package that the engine needs is missing. Called before `submit`."""

    def submit(self, job: Job) -> None:
        """Hand a job over; one that the engine already has under this id is left as it is."""
        raise NotImplementedError

    def poll(self, timeout: float) -> Mapping[str, JobReport]:
        """Report of every submitted job by id; waits up to `timeout` seconds for news."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Stop all jobs that have not ended, as SIGTERM does: after a checkpoint. `poll` goes on reporting them."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what the engine holds in this process. Called once, whatever happened; jobs of an engine that does not
        outlive this process end at once."""


def engines() -> Mapping[str, type[Engine]]:
    """Every engine with a file in `dbrun/engines`, by name."""
    return {engine.NAME: engine for engine in subclasses("dbrun.engines", Engine)}
