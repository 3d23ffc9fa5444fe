"""Process 0 of a distributed run: starts the other processes, shares stages with them, notices when one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from dbrun.errors import DbrunError, Interrupted, ProcessLost, StageFailed, WorkerKilled
from dbrun.events import Emit, Note
from dbrun.plan.cache_key import StageKey
from dbrun.stages.support.process_group import ProcessGroup
from dbrun.workers.env import PARENT_PID_VARIABLE, DistributedEnv, clear_launcher_variables

if TYPE_CHECKING:
    from dbrun.workers.rendezvous import ControlChannel

SHUTDOWN_TIMEOUT = 5.0
"""Seconds that the other processes get to end by themselves before they are killed."""
DIAGNOSIS_TIMEOUT = 3.0
"""Seconds that process 0 looks for the cause of a failed exchange: a death shows a moment after the silence."""
INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"
"""Variable that names the network interface of torch's processes."""
POLL_INTERVAL = 0.05
"""Seconds between two looks while waiting."""
RESUME_HINT = "run the same command again; it resumes from what is kept"


@dataclass
class WorkerGroup:
    """Processes of a run, as process 0 manages them. The others are started when the first stage is shared.

    size: number of processes, this one included; arguments: recipe and overrides for the command line of the others;
    env: place of this process if a launcher started all of them, else None; log_folder: folder for the stderr of the
    others, a file each; program: command line before the arguments.
    """

    size: int = 1
    arguments: Sequence[str] = ()
    env: DistributedEnv | None = None
    log_folder: Path = Path()
    program: Sequence[str] = (sys.executable, "-m", "dbrun", "run")
    _channel: ControlChannel | None = None
    _processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    _added_variables: list[str] = field(default_factory=list)

    @contextmanager
    def share_stage(self, stage_key: StageKey, inputs: Mapping[str, str], emit: Emit, stop_signal: Callable[[], int], *,
                    from_scratch: bool) -> Iterator[ProcessGroup]:
        """Context manager: the other processes run the stage too, if it can be shared. Yields the place of this one.

        inputs: upstream stage → digest of its result; emit: receives notes of the other processes; stop_signal: number
        of the signal to stop for, 0 for none; from_scratch: make all items again. Raises StageFailed that names the
        process which failed or is gone, and Interrupted if a signal came.
        """
        stage = stage_key.stage.NAME
        if self.size == 1 or not stage_key.stage.multi_process:
            yield ProcessGroup()
            return
        from dbrun.workers.rendezvous import DistributedProcessGroup

        channel = self._wait_for_workers(stop_signal)
        emit(Note(stage, f"{self.size} processes share the work"))
        turn = channel.announce_stage({"stage": stage, "key": stage_key.key, "inputs": dict(inputs),
                                       "from_scratch": from_scratch})
        local_rank = 0 if self.env is None else self.env.local_rank
        try:
            yield DistributedProcessGroup(0, self.size, local_rank, channel, turn,
                                          lambda: self._check_workers(channel))
        except ProcessLost as error:
            # torchrun sends its signal to all processes, and the others may have stopped first
            signum = stop_signal()
            if signum:
                raise Interrupted(signum) from error
            failure = self._wait_for_failure(channel)
            raise failure or StageFailed(error.message, fix=RESUME_HINT) from error
        finally:
            # a lost channel must not hide the error that is on its way
            with suppress(RuntimeError):
                for note in channel.new_messages("note"):
                    emit(Note(stage, f"process {note['rank']}: {note['text']}", note["level"]))

    def close(self) -> None:
        """End the run for the other processes. Those still running after SHUTDOWN_TIMEOUT are killed."""
        channel = self._channel
        try:
            if channel is None and self.env is not None:
                # a launcher started the others at once; they wait even if no stage was shared
                channel = self._connect(self.env)
            if channel is not None:
                self._shut_down_workers(channel)
        except RuntimeError:
            # the others are gone already, and the channel with them
            pass
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()
            # of a program that runs recipes from Python, the environment stays as it was
            for name in self._added_variables:
                os.environ.pop(name, None)
            # an empty log says nothing; one with text is kept for whoever looks for the cause
            for rank in self._processes:
                log = self._log_path(rank)
                if log.exists() and not log.stat().st_size:
                    log.unlink()

    def _shut_down_workers(self, channel: ControlChannel) -> None:
        channel.announce_end()
        # this process holds the store behind the channel, so it must be the last to leave
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT
        while time.monotonic() < deadline and channel.count("gone") < self.size - 1 and not self._all_exited():
            time.sleep(POLL_INTERVAL)
        channel.leave_group()

    def _all_exited(self) -> bool:
        return bool(self._processes) and all(process.poll() is not None for process in self._processes.values())

    def _wait_for_workers(self, stop_signal: Callable[[], int]) -> ControlChannel:
        """Control channel, once every process has joined. Raises Interrupted, or StageFailed if one does not come."""
        from dbrun.workers.rendezvous import JOIN_TIMEOUT

        if self._channel is not None:
            return self._channel
        channel = self._connect(self.env) if self.env else self._start_workers()
        self._channel = channel
        timeout = JOIN_TIMEOUT.total_seconds()
        deadline = time.monotonic() + timeout
        # counted here first: `join_group` blocks, and could neither be interrupted nor see that a process died
        joined = channel.count("here")
        while joined < self.size - 1:
            signum = stop_signal()
            if signum:
                raise Interrupted(signum)
            self._check_workers(channel)
            if time.monotonic() > deadline:
                raise StageFailed(f"only {joined + 1} of {self.size} processes started within {timeout / 60:.0f} "
                                  "minutes", fix=RESUME_HINT)
            time.sleep(POLL_INTERVAL)
            joined = channel.count("here")
        channel.join_group(0)
        return channel

    def _connect(self, here: DistributedEnv) -> ControlChannel:
        from dbrun.workers.rendezvous import connect_channel

        channel = connect_channel(here)
        clear_launcher_variables(os.environ)
        return channel

    def _start_workers(self) -> ControlChannel:
        """Start the other processes on this machine, with the environment variables that torchrun would set."""
        from dbrun.workers.rendezvous import create_channel

        if Path("/sys/class/net/lo").exists() and INTERFACE_VARIABLE not in os.environ:
            # by default torch takes the interface of the host's name, which a firewall may block
            os.environ[INTERFACE_VARIABLE] = "lo"
            self._added_variables.append(INTERFACE_VARIABLE)
        channel, port = create_channel(self.size)
        shared = {"WORLD_SIZE": str(self.size), "LOCAL_WORLD_SIZE": str(self.size), "MASTER_ADDR": "127.0.0.1",
                  "MASTER_PORT": str(port), PARENT_PID_VARIABLE: str(os.getpid())}
        command = [*self.program, *self.arguments]
        for rank in range(1, self.size):
            environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with self._log_path(rank).open("wb") as log:
                self._processes[rank] = _start_process(command, environment, log)
        return channel

    def _log_path(self, rank: int) -> Path:
        return self.log_folder / f"process-{rank}.log"

    def _check_workers(self, channel: ControlChannel) -> None:
        """Raise StageFailed if another process failed or is gone."""
        error = self._find_failure(channel)
        if error is not None:
            raise error

    def _wait_for_failure(self, channel: ControlChannel) -> DbrunError | None:
        """Error that names the process which failed; None if none shows within DIAGNOSIS_TIMEOUT."""
        deadline = time.monotonic() + DIAGNOSIS_TIMEOUT
        while time.monotonic() < deadline:
            with suppress(RuntimeError):
                error = self._find_failure(channel)
                if error is not None:
                    return error
            time.sleep(POLL_INTERVAL)
        return None

    def _find_failure(self, channel: ControlChannel) -> DbrunError | None:
        # a process that fails posts its error before it ends, and that error says more than an exit code
        for failure in channel.new_messages("failure"):
            error = StageFailed(f"process {failure['rank']} of {self.size}: {failure['message']}", fix=failure["fix"])
            error.exit_code = int(failure["exit_code"])
            return error
        for rank, process in self._processes.items():
            code = process.poll()
            if code is not None:
                kind = WorkerKilled if code == -signal.SIGKILL else StageFailed
                return kind(f"process {rank} of {self.size} {_describe_exit(code)}", fix=self._resume_hint(rank))
        return None

    def _resume_hint(self, rank: int) -> str:
        log = self._log_path(rank)
        has_text = log.exists() and log.stat().st_size
        return f"{RESUME_HINT}; its error output is in {log}" if has_text else RESUME_HINT


def _start_process(command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start another process of this run.

    It ends when its stdin is closed, which the system does however this process ends: none is ever left behind.
    """
    # a session of its own: Ctrl-C in the terminal reaches only process 0, which stops all after the same step
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
                            start_new_session=True)


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended too early, with exit code {code}"
    # Popen gives the negative number of the signal
    name = signal.Signals(-code).name
    if name == "SIGKILL":
        return f"was killed ({name}; usually because memory ran out)"
    return f"was killed ({name})"
