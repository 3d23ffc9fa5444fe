"""Uploads of a running stage's checkpoints, so that another machine can go on where this one was taken away."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from dbrun.events import Emit, Event, Progress
from dbrun.naming import usable_step
from dbrun.plan.cache_key import StageKey
from dbrun.store.atomic import list_dir
from dbrun.store.store import Store
from dbrun.store.traces import Trace

MAX_SHARE = 0.05
"""The part of a stage's time that its uploads may take: an upload of 1 second is followed by 20 without one."""


@dataclass
class CheckpointUploads:
    """Listener of a stage's events that passes them on, and uploads each new checkpoint soon after it was saved.

    Without a remote store in mode rw it only passes them on.
    """

    store: Store
    stage_key: StageKey
    emit: Emit
    _last: str = ""
    _not_before: float = 0.0

    def __call__(self, event: Event) -> None:
        """Pass an event on; with the progress of a step, upload the checkpoint of the step before."""
        self.emit(event)
        if isinstance(event, Progress) and time.monotonic() >= self._not_before:
            self.upload()

    def upload(self) -> None:
        """Upload the newest checkpoint, unless that has been done.

        Also to be called after an interruption, whenever the last one was: this machine may be gone in a moment.
        """
        remote = self.store.remote
        if remote is None or not remote.writes:
            return
        mine = self._checkpoints()
        if not mine or mine[-1].name == self._last:
            return
        began = time.monotonic()
        # tried once each: a server that is down costs no time at every step
        self._last = mine[-1].name
        remote.save_checkpoint(self.stage_key.stage.NAME, self.stage_key.resume_key, mine[-1])
        now = time.monotonic()
        self._not_before = now + (now - began) / MAX_SHARE

    def finish(self, trace: Trace) -> None:
        """Remove the uploaded checkpoints: the result is published. Call it while the work folder still stands.

        Only this machine keeps what a longer run can go on from: one for each of thousands of trainings is too much.
        """
        if self.store.remote is not None and self._checkpoints():
            self.store.remote.remove_checkpoints(trace, self.stage_key.resume_key, self.stage_key.last_step)

    def _checkpoints(self) -> list[Path]:
        """The stage's checkpoints, oldest first. Those of a longer run, which share the folder, are that run's."""
        paths = list_dir(self.store.work_folder(self.stage_key.resume_key) / "checkpoints")
        return [path for path in paths if usable_step(path.name, self.stage_key.last_step) is not None]
