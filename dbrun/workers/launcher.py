"""How does the first process of a run have the others share its stages, and what if it loses one of them?"""

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

from dbrun.errors import DbrunError, Interrupted, ProcessLost, StageFailed
from dbrun.events import Emit, Note
from dbrun.plan.cache_key import StageKey
from dbrun.stages.support.process_group import ProcessGroup
from dbrun.workers.env import PARENT_PID_VARIABLE, DistributedEnv, clear_launcher_variables

if TYPE_CHECKING:
    from dbrun.workers.rendezvous import ControlChannel

SHUTDOWN_TIMEOUT = 5.0
"""Seconds that the other processes get to end by themselves."""
DIAGNOSIS_TIMEOUT = 3.0
"""Seconds in which it shows who it was that does not answer."""
POLL_INTERVAL = 0.05
RESUME_HINT = "the same command goes on from what is kept"


@dataclass
class WorkerGroup:
    """The processes of a run, as its first one sees them. They come together when the first stage is shared.

    size: how many they are; arguments: the recipe and overrides, with which the others are started; env: this process's
    own place, where a launcher started all of them; log_folder: the folder for what the others say;
    program: what to start.
    """

    size: int = 1
    arguments: Sequence[str] = ()
    env: DistributedEnv | None = None
    log_folder: Path = Path()
    program: Sequence[str] = (sys.executable, "-m", "dbrun", "run")
    _channel: ControlChannel | None = None
    _processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @contextmanager
    def share_stage(self, stage_key: StageKey, inputs: Mapping[str, str], emit: Emit, stop_signal: Callable[[], int], *,
                    from_scratch: bool) -> Iterator[ProcessGroup]:
        """Inside the block the other processes work on the stage too, if it can be shared.

        inputs: upstream stage -> digest. Raises StageFailed that names the process which failed or is gone.
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
        try:
            yield DistributedProcessGroup(0, self.size, 0 if self.env is None else self.env.local_rank, channel, turn,
                                          lambda: self._check_workers(channel))
        except ProcessLost as error:
            if signum := stop_signal():
                # a launcher may have stopped the others first
                raise Interrupted(signum) from error
            raise self._wait_for_failure(channel) or StageFailed(error.message, fix=RESUME_HINT) from error
        finally:
            with suppress(RuntimeError):
                for note in channel.new_messages("note"):
                    emit(Note(stage, f"process {note['rank']}: {note['text']}", note["level"]))

    def close(self) -> None:
        """Send the others home; who does not go is ended."""
        channel = self._channel
        try:
            if channel is None and self.env is not None:
                # they wait for a word, though there was nothing to share
                channel = self._connect(self.env)
            if channel is not None:
                self._shut_down_workers(channel)
        except RuntimeError:
            # nobody is there any more
            pass
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()
            for rank in self._processes:
                log = self._log_path(rank)
                if log.exists() and not log.stat().st_size:
                    log.unlink()

    def _shut_down_workers(self, channel: ControlChannel) -> None:
        channel.announce_end()
        until = time.monotonic() + SHUTDOWN_TIMEOUT
        while time.monotonic() < until and channel.count("gone") < self.size - 1 and not self._all_exited():
            time.sleep(POLL_INTERVAL)
        channel.leave_group()

    def _all_exited(self) -> bool:
        return bool(self._processes) and all(process.poll() is not None for process in self._processes.values())

    def _wait_for_workers(self, stop_signal: Callable[[], int]) -> ControlChannel:
        """The control channel, once every process is there."""
        from dbrun.workers.rendezvous import JOIN_TIMEOUT

        if self._channel is not None:
            return self._channel
        self._channel = channel = self._connect(self.env) if self.env else self._start_workers()
        until = time.monotonic() + JOIN_TIMEOUT.total_seconds()
        while (there := channel.count("here")) < self.size - 1:
            if signum := stop_signal():
                raise Interrupted(signum)
            self._check_workers(channel)
            if time.monotonic() > until:
                raise StageFailed(f"only {there + 1} of {self.size} processes came within "
                                  f"{JOIN_TIMEOUT.total_seconds() / 60:.0f} minutes", fix=RESUME_HINT)
            time.sleep(POLL_INTERVAL)
        channel.join_group(0)
        return channel

    def _connect(self, here: DistributedEnv) -> ControlChannel:
        from dbrun.workers.rendezvous import connect_channel

        channel = connect_channel(here)
        clear_launcher_variables(os.environ)
        return channel

    def _start_workers(self) -> ControlChannel:
        """Start the others on this machine; they find the channel through what a launcher would tell them."""
        from dbrun.workers.rendezvous import create_channel

        if Path("/sys/class/net/lo").exists():
            # else torch takes the interface that the host's name leads to, which a firewall may watch
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        channel, port = create_channel(self.size)
        told = {"WORLD_SIZE": self.size, "LOCAL_WORLD_SIZE": self.size, "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port, PARENT_PID_VARIABLE: os.getpid()}
        for rank in range(1, self.size):
            own = {name: str(value) for name, value in {**told, "RANK": rank, "LOCAL_RANK": rank}.items()}
            with self._log_path(rank).open("wb") as log:
                self._processes[rank] = _start_process([*self.program, *self.arguments], {**os.environ, **own}, log)
        return channel

    def _log_path(self, rank: int) -> Path:
        return self.log_folder / f"process-{rank}.log"

    def _check_workers(self, channel: ControlChannel) -> None:
        """Raise StageFailed where another process failed, or is gone."""
        if error := self._find_failure(channel):
            raise error

    def _wait_for_failure(self, channel: ControlChannel) -> DbrunError | None:
        """Who does not answer; that may show a moment later."""
        until = time.monotonic() + DIAGNOSIS_TIMEOUT
        while time.monotonic() < until:
            with suppress(RuntimeError):
                if error := self._find_failure(channel):
                    return error
            time.sleep(POLL_INTERVAL)
        return None

    def _find_failure(self, channel: ControlChannel) -> DbrunError | None:
        for words in channel.new_messages("failure"):
            error = StageFailed(f"process {words['rank']} of {self.size}: {words['message']}", fix=words["fix"])
            error.exit_code = int(words["exit_code"])
            return error
        for rank, process in self._processes.items():
            if (code := process.poll()) is not None:
                return StageFailed(f"process {rank} of {self.size} {_describe_exit(code)}", fix=self._resume_hint(rank))
        return None

    def _resume_hint(self, rank: int) -> str:
        log = self._log_path(rank)
        said = log.exists() and log.stat().st_size
        return f"{RESUME_HINT}; {log} holds its last words" if said else RESUME_HINT


def _start_process(words: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Another process of this run. It ends when its stdin does: no signal is needed, and none is left behind."""
    return subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
                            start_new_session=True)


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended before its work did, with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed ({name}{'; the system does so where memory runs out' if name == 'SIGKILL' else ''})"
