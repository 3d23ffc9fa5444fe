"""Events of a run, as frozen values: stages and the runner emit them, and only the ui shows them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from dbrun.expectations import Outcome, ScoreSummary

if TYPE_CHECKING:
    from dbrun.errors import DbrunError

FORMAT_VERSION = 1
"""The `format_version` of events as JSON."""


@dataclass(frozen=True)
class Event:
    """Base of all events. time: when it was made, in seconds since 1970; two events that differ in it alone are equal.
    """

    time: float = field(default_factory=time.time, kw_only=True, compare=False, repr=False)

    def to_json(self) -> dict[str, object]:
        """The event as plain data, {"event": "stage_started", …}, as in `--json` and events.jsonl."""
        # StageStarted → stage_started: renaming a class changes a public file format
        name = re.sub(r"(?<!^)([A-Z])", r"_\1", type(self).__name__).lower()
        return {"event": name, "format_version": FORMAT_VERSION, **asdict(self), "time": round(self.time, 3)}


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins. recipe: its path as given; run_id: the folder under `runs/`; stages: the selected ones, in order.
    """

    recipe: str
    name: str
    run_id: str
    stages: tuple[str, ...]


@dataclass(frozen=True)
class StageReused(Event):
    """A stage was not run, because its result is in the store. digest: of its artifact."""

    stage: str
    digest: str


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage begins. reason: why there is no cached result; resumed: whether it continues earlier work."""

    stage: str
    reason: str
    resumed: bool = False


@dataclass(frozen=True)
class LibrariesLoading(Event):
    """A stage imports its libraries first, which takes seconds; only the first such stage of a process does."""

    stage: str


@dataclass(frozen=True)
class Progress(Event):
    """Progress of a stage: done of total units. unit: "pictures", "steps" …; metrics: such as loss, learning_rate.

    seconds_left: of the stage, by the pace of the units that are done; None while too few are.
    """

    stage: str
    done: int
    total: int
    unit: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds_left: float | None = None


@dataclass(frozen=True)
class TimeLeft(Event):
    """Time that a run still needs: sent when a stage begins, and every few seconds of its progress.

    stage: the running one; seconds: of all stages whose time is known, the running one included;
    stage_seconds: the part of it that is the running stage's, None if its time is not known;
    unknown: the stages whose whole time is not known, in order: never timed here, even if the pace of the running one
    is measured; known_with: the one of them whose first units will show most of what is missing, None if there is none.
    """

    stage: str
    seconds: float
    stage_seconds: float | None
    unknown: tuple[str, ...] = ()
    known_with: str | None = None


@dataclass(frozen=True)
class Note(Event):
    """A message for the user. level: "info" or "warning"."""

    stage: str
    text: str
    level: str = "info"


@dataclass(frozen=True)
class StageFinished(Event):
    """A stage's artifact is complete in the store. digest: of the artifact.

    memory: peak bytes that the stage itself took; counted: what an earlier `dbrun plan --memory` counted; None if
    unknown.
    """

    stage: str
    digest: str
    seconds: float
    memory: int | None = None
    counted: int | None = None


@dataclass(frozen=True)
class RunFinished(Event):
    """A run has finished. ran, reused: numbers of stages; outputs: the delivered folder, None without an export.

    run_id: as in RunStarted; files: those delivered, relative to outputs; losses: of the training, by name: the mean
    over the last tenth of its steps, and the last held-out loss; scores: of the adapter, by name: mean, spread over
    seeds and direction; expectations: for each of the recipe's, what was found and whether it is met.
    """

    ran: int
    reused: int
    seconds: float
    outputs: str | None = None
    run_id: str = ""
    files: tuple[str, ...] = ()
    losses: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, ScoreSummary] = field(default_factory=dict)
    expectations: tuple[Outcome, ...] = ()


@dataclass(frozen=True)
class SweepFinished(Event):
    """All runs of a sweep have finished. runs: name, values and failed of each; ran, loss, outputs … if it succeeded.
    """

    runs: tuple[Mapping[str, object], ...]


@dataclass(frozen=True)
class JobChanged(Event):
    """A submitted job has another state, or has come further.

    job: its id; title: its name for people; runs: names of the runs that need it; state: waiting, running, done,
    failed, stopped or skipped; text: progress, or the error; fix: what to do about it; seconds: wall time so far.
    """

    job: str
    title: str
    runs: tuple[str, ...]
    state: str
    text: str = ""
    fix: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class JobsFinished(Event):
    """All submitted jobs have ended. jobs: job, title, runs, state, text and fix of each; seconds: wall time."""

    jobs: tuple[Mapping[str, object], ...]
    seconds: float


@dataclass(frozen=True)
class RunFailed(Event):
    """A run ended with an error. stage: the one that was running, if any; message, fix, exit_code: of the error."""

    stage: str | None
    message: str
    fix: str | None
    exit_code: int

    @classmethod
    def by(cls, error: DbrunError, stage: str | None = None) -> RunFailed:
        """The event for an error. stage: the one that was running, None before the first."""
        return cls(stage, error.message, error.fix, error.exit_code)


Emit = Callable[[Event], None]
