"""Who hears what happens in a run?"""

from __future__ import annotations

from dataclasses import dataclass

from dbrun.errors import DbrunError
from dbrun.events import Emit, Event, RunFailed, StageFinished, StageStarted
from dbrun.run.run_log import RunLog


@dataclass
class EventDispatcher:
    """Passes events to the listener and, once there is one, to the run's record. current_stage: the one at work."""

    listener: Emit
    run_log: RunLog | None = None
    current_stage: str | None = None

    def __call__(self, event: Event) -> None:
        """Pass one event on."""
        if isinstance(event, StageStarted | StageFinished):
            self.current_stage = event.stage if isinstance(event, StageStarted) else None
        if self.run_log is not None:
            self.run_log.write_event(event)
        self.listener(event)

    def run_failed(self, error: DbrunError) -> None:
        """Tell how the run ended."""
        self(RunFailed(self.current_stage, error.message, error.fix, error.exit_code))
