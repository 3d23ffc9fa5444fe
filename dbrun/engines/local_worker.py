"""A process of the engine `local`: runs one job after another, and keeps the base in memory between them.

Jobs come and reports go as lines of JSON on a socket whose file descriptor is the first argument. Standard output and
error belong to the libraries.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from dbrun.engines.base import SIGNAL_EXIT
from dbrun.engines.run_job import run_job
from dbrun.errors import Interrupted
from dbrun.run.signals import StopFlag, stop_signals


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


def work(file_descriptor: int) -> int:
    """Run the jobs that come on the socket; return the exit code."""
    connection = _Connection(socket.socket(fileno=file_descriptor))
    threading.Thread(target=connection.read, daemon=True).start()
    with stop_signals() as stop:
        connection.stop = stop
        for job in connection.received():
            outcome = run_job(job, stop, lambda text: connection.send(text=text))
            connection.send(**outcome)
            if outcome["ended"] > SIGNAL_EXIT:
                return outcome["ended"]
    return 0


if __name__ == "__main__":
    try:
        sys.exit(work(int(sys.argv[1])))
    except Interrupted as second_signal:
        sys.exit(second_signal.exit_code)
