"""What happens during a run, as values: stages and the runner emit them, only the ui renders them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins. recipe: its path as given; run_id: the folder under `runs/`; stages: those wanted, in order."""

    recipe: str
    name: str
    run_id: str
    stages: tuple[str, ...]


@dataclass(frozen=True)
class StageReused(Event):
    """A stage was not run: its result is in the store."""

    stage: str
    digest: str


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage begins; reason says why it is not cached, resumed whether it goes on from earlier work."""

    stage: str
    reason: str
    resumed: bool = False


@dataclass(frozen=True)
class Progress(Event):
    """done of total units ("pictures", "steps" …) of a stage; metrics such as loss and learning_rate."""

    stage: str
    done: int
    total: int
    unit: str
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Note(Event):
    """Something that a person should know; level is "info" or "warning"."""

    stage: str
    text: str
    level: str = "info"


@dataclass(frozen=True)
class StageFinished(Event):
    """A stage's artifact stands in the store."""

    stage: str
    digest: str
    seconds: float


@dataclass(frozen=True)
class RunFinished(Event):
    """The run is over. outputs: the delivered folder, or None where the export was not asked for."""

    ran: int
    reused: int
    seconds: float
    outputs: str | None = None


@dataclass(frozen=True)
class SweepFinished(Event):
    """All runs of a sweep are over. runs: name, values, failed, and of those that did not fail ran, loss, outputs …"""

    runs: tuple[Mapping[str, object], ...]


@dataclass(frozen=True)
class RunFailed(Event):
    """The run ended early. stage: the one at work, if any; message, fix, exit_code: those of the error."""

    stage: str | None
    message: str
    fix: str | None
    exit_code: int


Emit = Callable[[Event], None]


def as_json(event: Event) -> dict[str, object]:
    """One event as plain data: {"event": "stage_started", …}, the form of `--json` and of events.jsonl."""
    words = "".join("_" + c.lower() if c.isupper() else c for c in type(event).__name__).lstrip("_")
    return {"event": words, **asdict(event)}
