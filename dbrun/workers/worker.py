"""What does a process do that is not the first of its run? It shares the stages that the first one names."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dbrun.errors import DbrunError, Interrupted, ProcessLost, StageFailed
from dbrun.events import Event, Note
from dbrun.plan.planner import BASE_STAGE, Scope
from dbrun.resolve.base import base_folder
from dbrun.run.signals import HEARD
from dbrun.run.stage_context import Jobs
from dbrun.stages.base import Artifact
from dbrun.store.atomic import remove
from dbrun.workers.env import Place, forget
from dbrun.workers.rendezvous import Board, Shared, reached

PAUSE = 0.05


def follow(here: Place, plan: Callable[[], Scope]) -> int:
    """Work until the run is over; the exit code. plan: the run as this process reads it, once there is work.

    It prints nothing and publishes nothing but items. When the first process is gone, this one ends too.
    """
    _hear(signal.SIG_DFL)
    if here.ours:
        threading.Thread(target=_end_with_the_first, daemon=True).start()
    board = reached(here)
    forget(os.environ)
    try:
        board.count("here", 1)
        while not board.over and not board.count("meet"):
            time.sleep(PAUSE)
        if not board.over:
            board.meet(here.rank)
        return _Follower(here, board, plan).work()
    except RuntimeError:
        # the board is gone, and the first process with it
        return 1


def _hear(how: signal.Handlers) -> None:
    """During a turn signals are the first process's business, which lets all stop after the same step."""
    for number in HEARD:
        signal.signal(number, how)


def _end_with_the_first() -> None:
    """End this process when its stdin, which the first one holds, is closed: however that one ends."""
    # not through sys.stdin, whose lock the interpreter wants when it ends
    while os.read(0, 4096):
        pass
    os._exit(1)


@dataclass
class _Follower:
    here: Place
    board: Board
    plan: Callable[[], Scope]
    within: Scope | None = None
    turn: int = 0

    def work(self) -> int:
        code = 0
        while not self.board.over:
            for brief in self.board.news("brief"):
                self.turn += 1
                code = self._tried(brief)
            time.sleep(PAUSE)
        self.board.count("gone", 1)
        self.board.part()
        return code

    def _tried(self, brief: dict[str, Any]) -> int:
        """Take part in a turn, and tell the first process how it failed, if it did."""
        stage = brief["stage"]
        _hear(signal.SIG_IGN)
        try:
            self._take_part(stage, brief)
        except (Interrupted, ProcessLost):
            return 0
        except DbrunError as error:
            self._tell(error)
        except Exception as error:
            traceback.print_exc()
            words = (str(error).strip() or "no message").splitlines()[0][:300]
            self._tell(StageFailed(f"{stage} failed: {type(error).__name__}: {words}",
                                   fix="what was finished is kept"))
        else:
            return 0
        finally:
            _hear(signal.SIG_DFL)
        return 1

    def _take_part(self, stage: str, brief: dict[str, Any]) -> None:
        self.within = within = self.within or self.plan()
        inputs = {name: Artifact(within.store.objects.path(digest), digest)
                  for name, digest in brief["inputs"].items()}
        question = within.ask(stage, {name: one.digest for name, one in inputs.items()})
        if question.key != brief["key"]:
            raise StageFailed(f"it would compute another {stage} than process 0: it finds another recipe, other "
                              "pictures, another device or another version of a library",
                              fix="let all processes see the same files, with the same packages installed")

        def base() -> Any:
            return base_folder(within.located.sources.base, inputs[BASE_STAGE], within.store)

        jobs, out = Jobs(within, self._stopping, base), within.store.fresh()
        items = jobs.items(question, self._emit, anew=brief["anew"])
        ranks = Shared(self.here.rank, self.here.size, self.here.local, self.board, self.turn, self._watch)
        try:
            question.stage.run(jobs.job(question, inputs, out, items, lambda event: None, ranks))
        finally:
            remove(out)

    def _stopping(self) -> int:
        return signal.SIGTERM if self.board.over else 0

    def _watch(self) -> None:
        if self.board.over:
            raise Interrupted(signal.SIGTERM)

    def _emit(self, event: Event) -> None:
        """What this process alone has noticed; how the work goes, the first one sees by itself."""
        if isinstance(event, Note):
            self.board.post("note", {"rank": self.here.rank, "text": event.text, "level": event.level})

    def _tell(self, error: DbrunError) -> None:
        self.board.post("failure", {"rank": self.here.rank, "message": error.message, "fix": error.fix,
                                    "exit_code": error.exit_code})
