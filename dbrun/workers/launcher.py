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
from typing import IO

from dbrun.errors import DbrunError, Interrupted, ProcessLost, StageFailed
from dbrun.events import Emit, Note
from dbrun.plan.cache_key import Ask
from dbrun.stages.support.process_group import Ranks
from dbrun.workers.env import OURS, Place, forget
from dbrun.workers.rendezvous import PATIENCE, Board, Shared, opened, reached

GRACE = 5.0
"""Seconds that the other processes get to end by themselves."""
TRACE = 3.0
"""Seconds in which it shows who it was that does not answer."""
PAUSE = 0.05
GOES_ON = "the same command goes on from what is kept"


@dataclass
class Crew:
    """The processes of a run, as its first one sees them. They come together when the first stage is shared.

    size: how many they are; words: the recipe and overrides, with which the others are started; here: this process's
    own place, where a launcher started all of them; logs: the folder for what the others say; program: what to start.
    """

    size: int = 1
    words: Sequence[str] = ()
    here: Place | None = None
    logs: Path = Path()
    program: Sequence[str] = (sys.executable, "-m", "dbrun", "run")
    _board: Board | None = None
    _others: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @contextmanager
    def sharing(self, question: Ask, inputs: Mapping[str, str], emit: Emit, stopping: Callable[[], int], *,
                anew: bool) -> Iterator[Ranks]:
        """Inside the block the other processes work on the stage too, if it can be shared.

        inputs: upstream stage -> digest. Raises StageFailed that names the process which failed or is gone.
        """
        stage = question.stage.NAME
        if self.size == 1 or not question.stage.shared:
            yield Ranks()
            return
        board = self._together(stopping)
        emit(Note(stage, f"{self.size} processes share the work"))
        turn = board.turn({"stage": stage, "key": question.key, "inputs": dict(inputs), "anew": anew})
        try:
            yield Shared(0, self.size, 0 if self.here is None else self.here.local, board, turn,
                         lambda: self._check(board))
        except ProcessLost as error:
            if signum := stopping():
                # a launcher may have stopped the others first
                raise Interrupted(signum) from error
            raise self._culprit(board) or StageFailed(error.message, fix=GOES_ON) from error
        finally:
            with suppress(RuntimeError):
                for note in board.news("note"):
                    emit(Note(stage, f"process {note['rank']}: {note['text']}", note["level"]))

    def close(self) -> None:
        """Send the others home; who does not go is ended."""
        board = self._board
        try:
            if board is None and self.here is not None:
                # they wait for a word, though there was nothing to share
                board = self._reach(self.here)
            if board is not None:
                self._send_home(board)
        except RuntimeError:
            # nobody is there any more
            pass
        finally:
            for process in self._others.values():
                process.kill()
                process.wait()
            for rank in self._others:
                log = self._log(rank)
                if log.exists() and not log.stat().st_size:
                    log.unlink()

    def _send_home(self, board: Board) -> None:
        board.end()
        until = time.monotonic() + GRACE
        while time.monotonic() < until and board.count("gone") < self.size - 1 and not self._all_ended():
            time.sleep(PAUSE)
        board.part()

    def _all_ended(self) -> bool:
        return bool(self._others) and all(process.poll() is not None for process in self._others.values())

    def _together(self, stopping: Callable[[], int]) -> Board:
        """The board, once every process is there."""
        if self._board is not None:
            return self._board
        self._board = board = self._reach(self.here) if self.here else self._start()
        until = time.monotonic() + PATIENCE.total_seconds()
        while (there := board.count("here")) < self.size - 1:
            if signum := stopping():
                raise Interrupted(signum)
            self._check(board)
            if time.monotonic() > until:
                raise StageFailed(f"only {there + 1} of {self.size} processes came within "
                                  f"{PATIENCE.total_seconds() / 60:.0f} minutes", fix=GOES_ON)
            time.sleep(PAUSE)
        board.meet(0)
        return board

    def _reach(self, here: Place) -> Board:
        board = reached(here)
        forget(os.environ)
        return board

    def _start(self) -> Board:
        """Start the others on this machine; they find the board through what a launcher would tell them."""
        if Path("/sys/class/net/lo").exists():
            # else torch takes the interface that the host's name leads to, which a firewall may watch
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        board, port = opened(self.size)
        told = {"WORLD_SIZE": self.size, "LOCAL_WORLD_SIZE": self.size, "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port, OURS: os.getpid()}
        for rank in range(1, self.size):
            own = {name: str(value) for name, value in {**told, "RANK": rank, "LOCAL_RANK": rank}.items()}
            with self._log(rank).open("wb") as log:
                self._others[rank] = _started([*self.program, *self.words], {**os.environ, **own}, log)
        return board

    def _log(self, rank: int) -> Path:
        return self.logs / f"process-{rank}.log"

    def _check(self, board: Board) -> None:
        """Raise StageFailed where another process failed, or is gone."""
        if error := self._failed(board):
            raise error

    def _culprit(self, board: Board) -> DbrunError | None:
        """Who does not answer; that may show a moment later."""
        until = time.monotonic() + TRACE
        while time.monotonic() < until:
            with suppress(RuntimeError):
                if error := self._failed(board):
                    return error
            time.sleep(PAUSE)
        return None

    def _failed(self, board: Board) -> DbrunError | None:
        for words in board.news("failure"):
            error = StageFailed(f"process {words['rank']} of {self.size}: {words['message']}", fix=words["fix"])
            error.exit_code = int(words["exit_code"])
            return error
        for rank, process in self._others.items():
            if (code := process.poll()) is not None:
                return StageFailed(f"process {rank} of {self.size} {_ended(code)}", fix=self._way_on(rank))
        return None

    def _way_on(self, rank: int) -> str:
        log = self._log(rank)
        said = log.exists() and log.stat().st_size
        return f"{GOES_ON}; {log} holds its last words" if said else GOES_ON


def _started(words: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Another process of this run. It ends when its stdin does: no signal is needed, and none is left behind."""
    return subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
                            start_new_session=True)


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended before its work did, with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed ({name}{'; the system does so where memory runs out' if name == 'SIGKILL' else ''})"
