"""The engine `local`: processes of this machine, one for each GPU, that keep the base in memory between jobs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import IO, Any, ClassVar

from dbrun.engines.base import Engine, Job, JobReport, JobState
from dbrun.engines.run_job import job_words
from dbrun.errors import UsageError
from dbrun.plan.device import visible_gpus
from dbrun.workers.env import clear_launcher_variables

MAX_ATTEMPTS = 2
"""Times that a job is started whose process dies."""
END_SECONDS = 5.0
"""Time that an idle process gets to end before it is killed."""
LOG_BYTES = 400
"""End of a dead process's output that is told."""


@dataclass
class _Worker:
    """A process and what it runs. devices: the GPUs that it sees; base: that of its last job; unread: the beginning of
    a line that is still to come."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    log: IO[bytes]
    devices: tuple[str, ...]
    job: Job | None = None
    base: str = ""
    began: float = 0.0
    unread: bytearray = field(default_factory=bytearray)

    def messages(self) -> Iterator[dict[str, Any]]:
        """The reports that have come. Raises EOFError if the process has gone."""
        try:
            data = self.connection.recv(65536)
        except OSError:
            data = b""
        self.unread += data
        *lines, self.unread = self.unread.split(b"\n")
        for line in lines:
            yield json.loads(line)
        if not data:
            raise EOFError


class LocalEngine(Engine):
    """Processes of this machine. A job whose process dies is started once more, in a fresh one."""

    NAME: ClassVar[str] = "local"
    SUMMARY: ClassVar[str] = "processes of this machine, a GPU each"
    elsewhere: ClassVar[bool] = False

    program: ClassVar[tuple[str, ...]] = (sys.executable, "-m", "dbrun.engines.local_worker")
    """Command line of a process, before the number of its socket."""

    def __init__(self, store: Path, gpus: int | None = None) -> None:
        super().__init__(store, gpus)
        self._gpus = visible_gpus()
        # without GPUs the devices only count the processes
        count = gpus or len(self._gpus) or 1
        self._devices = self._gpus[:count] if self._gpus else tuple(map(str, range(count)))
        self._jobs: dict[str, Job] = {}
        self._reports: dict[str, JobReport] = {}
        self._needs: dict[str, set[str]] = {}
        self._dependents: dict[str, list[str]] = {}
        self._ready: deque[Job] = deque()
        self._workers: list[_Worker] = []
        self._selector = DefaultSelector()
        self._is_stopping = False

    def check(self) -> None:
        """Raise UsageError for more GPUs than there are."""
        if self._gpus and self.gpus is not None and self.gpus > len(self._gpus):
            raise UsageError(f"found --gpus {self.gpus}; this machine has {len(self._gpus)}",
                             fix=f"write --gpus {len(self._gpus)}")

    def submit(self, job: Job) -> None:
        """Take a job; it is started by `poll`. Raises UsageError if it needs more GPUs than there are."""
        if job.gpus > len(self._devices):
            raise UsageError(f"{job.title} needs {job.gpus} GPUs, and {len(self._devices)} may be used",
                             fix="lower `launch.processes`, or raise --gpus")
        if job.id in self._jobs:
            return
        self._jobs[job.id] = job
        self._reports[job.id] = JobReport(JobState.WAITING)
        self._needs[job.id] = {name for name in job.needs if self._reports[name].state is not JobState.DONE}
        for name in job.needs:
            self._dependents.setdefault(name, []).append(job.id)
        if not self._needs[job.id]:
            self._ready.append(job)

    def poll(self, timeout: float) -> Mapping[str, JobReport]:
        """Start what can be started, wait for news, and report."""
        self._start_ready()
        if self._workers:
            for key, _ in self._selector.select(timeout):
                self._read(key.data)
        return self._reports

    def cancel(self) -> None:
        """Stop all processes after a checkpoint; jobs that have not begun are not started."""
        self._is_stopping = True
        self._ready.clear()
        for name, report in self._reports.items():
            if report.state is JobState.WAITING:
                self._reports[name] = JobReport(JobState.STOPPED)
        for worker in self._workers:
            if worker.job is not None:
                worker.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End all processes; one that still has a job at once."""
        for worker in self._workers:
            worker.connection.close()
            if worker.job is not None:
                worker.process.kill()
        for worker in self._workers:
            try:
                worker.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.log.close()
        self._workers.clear()
        self._selector.close()

    def _start_ready(self) -> None:
        while self._ready:
            worker = self._worker_for(self._ready[0])
            if worker is None:
                return
            job = self._ready.popleft()
            worker.job, worker.base, worker.began = job, job.base, time.monotonic()
            attempts = self._reports[job.id].attempts + 1
            self._reports[job.id] = JobReport(JobState.RUNNING, seconds=0.0, attempts=attempts)
            try:
                worker.connection.sendall(json.dumps(job_words(job, self.store)).encode() + b"\n")
            except OSError:
                self._died(worker)

    def _worker_for(self, job: Job) -> _Worker | None:
        """An idle process with as many GPUs as the job needs, a new one if there is room; None if it has to wait."""
        size = max(1, job.gpus)
        idle = [worker for worker in self._workers if worker.job is None]
        fitting = [worker for worker in idle if len(worker.devices) == size]
        warm = [worker for worker in fitting if worker.base == job.base]
        if warm:
            return warm[0]
        taken = {device for worker in self._workers for device in worker.devices}
        free = [device for device in self._devices if device not in taken]
        if len(free) < size and fitting:
            return fitting[0]
        # processes of another size make room
        while len(free) < size and idle:
            worker = idle.pop()
            free += worker.devices
            self._end_idle(worker)
        return self._start_worker(tuple(free[:size])) if len(free) >= size else None

    def _start_worker(self, devices: tuple[str, ...]) -> _Worker:
        ours, theirs = socket.socketpair()
        environment = dict(os.environ)
        clear_launcher_variables(environment)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        # closed with the worker
        log = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            # a session of its own: Ctrl-C in the terminal reaches this process only, which then stops the others
            process = subprocess.Popen([*self.program, str(theirs.fileno())], pass_fds=[theirs.fileno()],
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                       env=environment)
        worker = _Worker(process, ours, log, devices)
        self._workers.append(worker)
        self._selector.register(ours, EVENT_READ, worker)
        return worker

    def _end_idle(self, worker: _Worker) -> None:
        self._forget(worker)
        worker.connection.close()
        worker.process.wait()
        worker.log.close()

    def _forget(self, worker: _Worker) -> None:
        self._selector.unregister(worker.connection)
        self._workers.remove(worker)

    def _read(self, worker: _Worker) -> None:
        """Take in what a process reports."""
        try:
            for message in worker.messages():
                self._take(worker, message)
        except EOFError:
            self._died(worker)

    def _take(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        job = worker.job
        assert job is not None, "a process without a job reports nothing"
        seconds = round(time.monotonic() - worker.began, 3)
        report = replace(self._reports[job.id], text=message["text"], seconds=seconds)
        code = message.get("ended")
        if code is None:
            self._reports[job.id] = report
            return
        worker.job = None
        self._end(job, replace(report, state=JobState.of_exit_code(code), fix=message["fix"]))

    def _died(self, worker: _Worker) -> None:
        """Start the job of a dead process once more, in a fresh one; report it as failed when it dies again."""
        self._forget(worker)
        worker.connection.close()
        code = worker.process.wait()
        job = worker.job
        if job is not None:
            report = self._reports[job.id]
            why = _why_died(code)
            if self._is_stopping:
                self._end(job, replace(report, state=JobState.STOPPED))
            elif report.attempts < MAX_ATTEMPTS:
                self._reports[job.id] = replace(report, state=JobState.WAITING, text=f"{why}; started again")
                self._ready.appendleft(job)
            else:
                self._end(job, replace(report, state=JobState.FAILED, text=f"{why}, twice{_last_words(worker.log)}",
                                       fix="if memory ran out: fewer processes (--gpus), or what `dbrun plan --memory` "
                                           "advises"))
        worker.log.close()

    def _end(self, job: Job, report: JobReport) -> None:
        """Note the end of a job, and let those that need it begin or be skipped."""
        self._reports[job.id] = report
        for name in self._dependents.get(job.id, ()):
            if report.state is JobState.DONE:
                self._needs[name].discard(job.id)
                if not self._needs[name] and self._reports[name].state is JobState.WAITING:
                    self._ready.append(self._jobs[name])
            elif not self._reports[name].state.is_final:
                self._end(self._jobs[name], JobReport(JobState.SKIPPED, f"it needs {job.title}"))


def _why_died(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    return f"its process was killed by {signal.Signals(-code).name}"


def _last_words(log: IO[bytes]) -> str:
    """The end of a process's output, in a text after a colon; empty if it wrote nothing."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - LOG_BYTES))
    text = log.read().decode(errors="replace").strip()
    return f": {text}" if text else ""
