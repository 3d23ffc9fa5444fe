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
from dbrun.plan.item_cache import item_cache
from dbrun.plan.planner import BASE_STAGE, Scope
from dbrun.resolve.base import verified_base_folder
from dbrun.run.signals import HANDLED_SIGNALS
from dbrun.run.stage_context import StageContextFactory
from dbrun.stages.sources import Artifact
from dbrun.store.atomic import remove_tree
from dbrun.workers.env import DistributedEnv, clear_launcher_variables
from dbrun.workers.rendezvous import ControlChannel, DistributedProcessGroup, connect_channel

POLL_INTERVAL = 0.05


def run_worker(here: DistributedEnv, plan: Callable[[], Scope]) -> int:
    """Work until the run is over; the exit code. plan: the run as this process reads it, once there is work.

    It prints nothing and publishes nothing but items. When the first process is gone, this one ends too.
    """
    _set_signal_handlers(signal.SIG_DFL)
    if here.started_by_dbrun:
        threading.Thread(target=_exit_with_first_process, daemon=True).start()
    channel = connect_channel(here)
    clear_launcher_variables(os.environ)
    try:
        channel.count("here", 1)
        while not channel.is_over and not channel.count("meet"):
            time.sleep(POLL_INTERVAL)
        if not channel.is_over:
            channel.join_group(here.rank)
        return _Worker(here, channel, plan).run()
    except RuntimeError:
        # the channel is gone, and the first process with it
        return 1


def _set_signal_handlers(how: signal.Handlers) -> None:
    """During a turn signals are the first process's business, which lets all stop after the same step."""
    for number in HANDLED_SIGNALS:
        signal.signal(number, how)


def _exit_with_first_process() -> None:
    """End this process when its stdin, which the first one holds, is closed: however that one ends."""
    # not through sys.stdin, whose lock the interpreter wants when it ends
    while os.read(0, 4096):
        pass
    os._exit(1)


@dataclass
class _Worker:
    env: DistributedEnv
    channel: ControlChannel
    plan: Callable[[], Scope]
    scope: Scope | None = None
    stage_number: int = 0

    def run(self) -> int:
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
        """Take part in a turn, and tell the first process how it failed, if it did."""
        stage = brief["stage"]
        _set_signal_handlers(signal.SIG_IGN)
        try:
            self._run_stage(stage, brief)
        except (Interrupted, ProcessLost):
            return 0
        except DbrunError as error:
            self._report_failure(error)
        except Exception as error:
            traceback.print_exc()
            words = (str(error).strip() or "no message").splitlines()[0][:300]
            self._report_failure(StageFailed(f"{stage} failed: {type(error).__name__}: {words}",
                                             fix="what was finished is kept"))
        else:
            return 0
        finally:
            _set_signal_handlers(signal.SIG_DFL)
        return 1

    def _run_stage(self, stage: str, brief: dict[str, Any]) -> None:
        self.scope = scope = self.scope or self.plan()
        inputs = {name: Artifact(scope.store.objects.path(digest), digest)
                  for name, digest in brief["inputs"].items()}
        stage_key = scope.stage_key(stage, {name: one.digest for name, one in inputs.items()})
        if stage_key.key != brief["key"]:
            raise StageFailed(f"it would compute another {stage} than process 0: it finds another recipe, other "
                              "pictures, another device or another version of a library",
                              fix="let all processes see the same files, with the same packages installed")

        def base() -> Any:
            return verified_base_folder(scope.resolved.sources.base, inputs[BASE_STAGE], scope.store)

        jobs, out = StageContextFactory(scope, self._stopping, base), scope.store.make_temp_folder()
        items = item_cache(scope, stage_key, self._emit, base, from_scratch=brief["from_scratch"])
        process_group = DistributedProcessGroup(self.env.rank, self.env.size, self.env.local_rank, self.channel,
                                                self.stage_number, self._raise_if_over)
        try:
            stage_key.stage.run(jobs.make_context(stage_key, inputs, out, items, lambda event: None, process_group))
        finally:
            remove_tree(out)

    def _stopping(self) -> int:
        return signal.SIGTERM if self.channel.is_over else 0

    def _raise_if_over(self) -> None:
        if self.channel.is_over:
            raise Interrupted(signal.SIGTERM)

    def _emit(self, event: Event) -> None:
        """What this process alone has noticed; how the work goes, the first one sees by itself."""
        if isinstance(event, Note):
            self.channel.post("note", {"rank": self.env.rank, "text": event.text, "level": event.level})

    def _report_failure(self, error: DbrunError) -> None:
        self.channel.post("failure", {"rank": self.env.rank, "message": error.message, "fix": error.fix,
                                      "exit_code": error.exit_code})
