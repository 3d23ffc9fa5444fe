"""Worker of a distributed run: a process that is not process 0, and runs the stages that process 0 announces."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dbrun.errors import DbrunError, Interrupted, ProcessLost, StageFailed, is_out_of_memory
from dbrun.events import Event, Note
from dbrun.plan.item_cache import item_cache
from dbrun.plan.planner import BASE_STAGE, Scope
from dbrun.resolve.base import verified_base_folder
from dbrun.run.signals import HANDLED_SIGNALS
from dbrun.run.stage_context import StageContextFactory
from dbrun.stages.sources import Artifact
from dbrun.stages.support.memory_advice import stage_advice
from dbrun.stages.support.resident import ResidentBase
from dbrun.store.atomic import remove_tree
from dbrun.workers.env import DistributedEnv, clear_launcher_variables
from dbrun.workers.rendezvous import ControlChannel, DistributedProcessGroup, connect_channel

POLL_INTERVAL = 0.05
"""Seconds between two looks for a new stage."""
MAX_MESSAGE_LENGTH = 300
"""Characters of an unexpected error that are passed on; the whole of it is in the worker's log."""


def run_worker(here: DistributedEnv, plan: Callable[[], Scope]) -> int:
    """Run stages with the other processes until the run is over; return the exit code.

    plan: reads the recipe and plans it, called when there is work. A worker prints nothing and puts nothing into the
    store but single items. When process 0 is gone, it ends too.
    """
    _set_signal_handlers(signal.SIG_DFL)
    if here.started_by_dbrun:
        threading.Thread(target=_exit_with_first_process, daemon=True).start()
    channel = connect_channel(here)
    clear_launcher_variables(os.environ)
    try:
        channel.count("here", 1)
        # joining blocks, so it waits until process 0 has seen everybody and says `meet`
        while not channel.is_over and not channel.count("meet"):
            time.sleep(POLL_INTERVAL)
        if not channel.is_over:
            channel.join_group(here.rank)
        return _Worker(here, channel, plan).run()
    except RuntimeError:
        # the channel is closed: process 0 is gone
        return 1


def _set_signal_handlers(how: signal.Handlers) -> None:
    """Set the handler of all signals that stop a run.

    During a stage a worker ignores them: process 0 alone handles them, and stops all after the same step.
    """
    for number in HANDLED_SIGNALS:
        signal.signal(number, how)


def _exit_with_first_process() -> None:
    """End this process when process 0 does, however that one ends: then the system closes this one's stdin."""
    # not through sys.stdin: a thread that blocks in it holds a lock which the interpreter takes at exit
    while os.read(0, 4096):
        pass
    os._exit(1)


@dataclass
class _Worker:
    """State of a worker. scope: made at the first stage; stage_number: of the current turn, from 1."""

    env: DistributedEnv
    channel: ControlChannel
    plan: Callable[[], Scope]
    scope: Scope | None = None
    stage_number: int = 0
    resident: ResidentBase = field(default_factory=ResidentBase)

    def run(self) -> int:
        """Take part in every announced stage; return the exit code of the last one."""
        code = 0
        while not self.channel.is_over:
            for brief in self.channel.new_messages("brief"):
                self.stage_number += 1
                code = self._try_stage(brief)
            time.sleep(POLL_INTERVAL)
        self.channel.count("gone", 1)
        self.channel.leave_group()
        return code

    def _try_stage(self, brief: dict[str, Any]) -> int:
        """Run one announced stage; report a failure to process 0. Return 0 or 1."""
        stage = brief["stage"]
        _set_signal_handlers(signal.SIG_IGN)
        try:
            self._run_stage(stage, brief)
        except (Interrupted, ProcessLost):
            # not this process's failure: process 0 knows the cause
            return 0
        except DbrunError as error:
            self._report_failure(error)
        except Exception as error:
            traceback.print_exc()
            if is_out_of_memory(error) and self.scope is not None:
                scope = self.scope
                advice = stage_advice(scope.stages[stage], scope.recipe, scope.numerics.device)
                self._report_failure(StageFailed(f"{stage} ran out of memory", fix=advice))
                return 1
            text = str(error).strip() or "no message"
            first_line = text.splitlines()[0][:MAX_MESSAGE_LENGTH]
            self._report_failure(StageFailed(f"{stage} failed: {type(error).__name__}: {first_line}",
                                             fix="finished work is kept"))
        else:
            return 0
        finally:
            _set_signal_handlers(signal.SIG_DFL)
        return 1

    def _run_stage(self, stage: str, brief: dict[str, Any]) -> None:
        """Run a stage as this process plans it. Raises StageFailed if process 0 has another key for it."""
        if self.scope is None:
            self.scope = self.plan()
            remote = self.scope.store.remote
            if remote is not None:
                remote.connect(lambda stage, text, level: self._emit(Note(stage, text, level)), self._stopping)
        scope = self.scope
        digests: dict[str, str] = brief["inputs"]
        inputs = {name: Artifact(scope.store.objects.path(digest), digest) for name, digest in digests.items()}
        stage_key = scope.stage_key(stage, digests)
        # equal keys prove that both processes compute the same, whatever machine this one is on
        if stage_key.key != brief["key"]:
            raise StageFailed(f"its {stage} differs from that of process 0: its recipe, pictures, device or "
                              "library versions differ",
                              fix="give all processes the same files and the same installed packages")

        def base() -> Any:
            return verified_base_folder(scope.resolved.sources.base, inputs[BASE_STAGE], scope.store)

        contexts = StageContextFactory(scope, self._stopping, base, resident=self.resident)
        # what a stage writes here is thrown away: only the result of process 0 is kept
        out = scope.store.make_temp_folder()
        items = item_cache(scope, stage_key, self._emit, base, from_scratch=brief["from_scratch"])
        process_group = DistributedProcessGroup(self.env.rank, self.env.size, self.env.local_rank, self.channel,
                                                self.stage_number, self._raise_if_over)
        try:
            context = contexts.make_context(stage_key, inputs, out, items, lambda event: None, process_group)
            stage_key.stage.run(context)
            self.resident.stage_done()
        finally:
            self.resident.close_failed()
            remove_tree(out)

    def _stopping(self) -> int:
        """Number of the signal to stop for: SIGTERM once process 0 has ended the run, else 0."""
        return signal.SIGTERM if self.channel.is_over else 0

    def _raise_if_over(self) -> None:
        if self.channel.is_over:
            raise Interrupted(signal.SIGTERM)

    def _emit(self, event: Event) -> None:
        """Pass on the notes of this process only: process 0 reports the progress itself."""
        if isinstance(event, Note):
            self.channel.post("note", {"rank": self.env.rank, "text": event.text, "level": event.level})

    def _report_failure(self, error: DbrunError) -> None:
        self.channel.post("failure", {"rank": self.env.rank, "message": error.message, "fix": error.fix,
                                      "exit_code": error.exit_code})
