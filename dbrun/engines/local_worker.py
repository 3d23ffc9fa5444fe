"""A process of the engine `local`: runs one job after another, and keeps the base in memory between them.

Jobs come and reports go as lines of JSON on a socket whose file descriptor is the first argument. Standard output and
error belong to the libraries.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from dbrun.errors import DbrunError, Interrupted
from dbrun.events import Event, Progress, StageStarted
from dbrun.run.signals import StopFlag, stop_signals
from dbrun.secrets import redact_secrets

SECONDS_BETWEEN_REPORTS = 0.5
"""Time between two reports of a stage's progress."""


class _Connection:
    """The socket to the engine. A thread reads it, so that the end of the engine is seen while a job runs."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self.jobs: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self.stop: StopFlag | None = None

    def read(self) -> None:
        """Read jobs until the engine has gone, then stop what runs after its next checkpoint."""
        # an engine that was killed resets the connection
        with suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                self.jobs.put(json.loads(line))
        self.jobs.put(None)
        if self.stop is not None:
            self.stop.signum = signal.SIGTERM
            self.stop.set()

    def send(self, **report: object) -> None:
        """Send a report; nobody may read it any more."""
        try:
            self._socket.sendall(json.dumps(report).encode() + b"\n")
        except OSError:
            return

    def received(self) -> Iterator[dict[str, Any]]:
        """Every job, as it comes."""
        yield from iter(self.jobs.get, None)


class _Telling:
    """Listener of a run's events: sends what people want to know of a job, not too often."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        """Report one event."""
        if isinstance(event, StageStarted):
            self._connection.send(text=event.stage)
        elif isinstance(event, Progress) and time.monotonic() - self._last > SECONDS_BETWEEN_REPORTS:
            self._last = time.monotonic()
            self._connection.send(text=f"{event.stage} {event.done}/{event.total}")


def work(file_descriptor: int) -> int:
    """Run the jobs that come on the socket; return the exit code."""
    # as `dbrun run` does: threads that spin while they wait slow each other down on a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    connection = _Connection(socket.socket(fileno=file_descriptor))
    threading.Thread(target=connection.read, daemon=True).start()
    with stop_signals() as stop:
        connection.stop = stop
        for job in connection.received():
            code = _run(job, stop, connection)
            if code > 128:
                return code
    return 0


def _run(job: dict[str, Any], stop: StopFlag, connection: _Connection) -> int:
    """Run one job and send how it ended; return its exit code."""
    try:
        import dbrun

        dbrun.run(Path(job["recipe"]), *job["overrides"], profiles=job["profiles"], store=job["store"],
                  outputs=job["outputs"], until=job["until"], on_event=_Telling(connection), cancel=stop)
    except Interrupted as error:
        connection.send(ended=128 + stop.signum, text=error.message, fix=error.fix)
        return 128 + stop.signum
    except DbrunError as error:
        connection.send(ended=error.exit_code, text=error.message, fix=error.fix)
        return error.exit_code
    except Exception as error:
        sys.stderr.write(redact_secrets("".join(traceback.format_exception(error))))
        connection.send(ended=1, text=f"a bug in dbrun: {type(error).__name__}: {redact_secrets(str(error))}", fix=None)
        return 1
    connection.send(ended=0, text="", fix=None)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(work(int(sys.argv[1])))
    except Interrupted as second_signal:
        sys.exit(second_signal.exit_code)
