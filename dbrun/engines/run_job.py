"""The running of a job by the Python API, in a process that an engine keeps for several jobs."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from dbrun.engines.base import SIGNAL_EXIT, Job
from dbrun.errors import DbrunError, Interrupted
from dbrun.events import Event, Progress, StageStarted
from dbrun.run.signals import StopFlag
from dbrun.secrets import redact_secrets
from dbrun.workers.env import let_idle_threads_sleep

SECONDS_BETWEEN_REPORTS = 0.5
"""Time between two reports of a stage's progress."""


class Outcome(TypedDict):
    """How a job ended. ended: its exit code; text, fix: the error and what to do about it."""

    ended: int
    text: str
    fix: str | None


def job_words(job: Job, store: Path) -> dict[str, Any]:
    """What a process has to know of a job, as plain data."""
    request = job.request
    return {"recipe": str(request.recipe), "overrides": request.overrides, "profiles": request.profiles,
            "store": str(store), "outputs": str(job.outputs), "until": job.until}


class ProgressListener:
    """Listener of a run's events: tells what people want to know of a job, not too often."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        """Report one event."""
        if isinstance(event, StageStarted):
            self._tell(event.stage)
        elif isinstance(event, Progress) and time.monotonic() - self._last > SECONDS_BETWEEN_REPORTS:
            self._last = time.monotonic()
            self._tell(f"{event.stage} {event.done}/{event.total}")


def run_job(job: Mapping[str, Any], stop: StopFlag, tell: Callable[[str], None]) -> Outcome:
    """Run one job and return how it ended. job: as `job_words` made it; tell: called with its progress."""
    let_idle_threads_sleep()
    try:
        import dbrun

        dbrun.run(Path(job["recipe"]), *job["overrides"], profiles=job["profiles"], store=job["store"],
                  outputs=job["outputs"], until=job["until"], on_event=ProgressListener(tell), cancel=stop)
    except Interrupted as error:
        return {"ended": SIGNAL_EXIT + stop.signum, "text": error.message, "fix": error.fix}
    except DbrunError as error:
        return {"ended": error.exit_code, "text": error.message, "fix": error.fix}
    except Exception as error:
        sys.stderr.write(redact_secrets("".join(traceback.format_exception(error))))
        text = f"a bug in dbrun: {type(error).__name__}: {redact_secrets(str(error))}"
        return {"ended": 1, "text": text, "fix": None}
    return {"ended": 0, "text": "", "fix": None}
