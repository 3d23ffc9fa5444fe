"""Who hears what happens in a run?"""

from __future__ import annotations

from dataclasses import dataclass

from dbrun.errors import DbrunError
from dbrun.events import Emit, Event, RunFailed, StageFinished, StageStarted
from dbrun.run.run_log import Record


@dataclass
class Telling:
    """Passes events to the listener and, once there is one, to the run's record. stage: the one at work."""

    listener: Emit
    record: Record | None = None
    stage: str | None = None

    def __call__(self, event: Event) -> None:
        """Pass one event on."""
        if isinstance(event, StageStarted | StageFinished):
            self.stage = event.stage if isinstance(event, StageStarted) else None
        if self.record is not None:
            self.record.event(event)
        self.listener(event)

    def failed(self, error: DbrunError) -> None:
        """Tell how the run ended."""
        self(RunFailed(self.stage, error.message, error.fix, error.exit_code))
