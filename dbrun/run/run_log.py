"""What is written down about a run while it goes on, in `runs/<id>/`?"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dbrun.errors import DbrunError, StageFailed, is_out_of_memory
from dbrun.events import Emit, Event, RunFailed, StageFinished, StageStarted, as_json
from dbrun.plan.history import create_run_folder, new_run_id, save_last_run
from dbrun.recipe.load import LoadedRecipe
from dbrun.secrets import redact_secrets
from dbrun.store.atomic import ERRNO_MESSAGES, disk_errors, explain_os_error
from dbrun.store.runs import EVENTS_FILE, KEYS_FILE, RECIPE_FILE, GcRoots, clear_live, mark_live, save_roots
from dbrun.store.store import Store


@dataclass(frozen=True)
class RunLog:
    """A run's folder: recipe.json, what it wants of the store, events.jsonl, and log where something went wrong."""

    store: Store
    folder: Path
    roots: GcRoots = field(default_factory=GcRoots)

    @classmethod
    def begin(cls, store: Store, loaded: LoadedRecipe, overrides: Sequence[str]) -> RunLog:
        """Start the record of a run; where the store takes nothing, there is none."""
        if store.read_only:
            return cls(store, store.runs / new_run_id(loaded.recipe.name))
        with disk_errors(f"writing into the store {store.root}"), store.shared_access():
            folder = create_run_folder(store, loaded.recipe.name)
            store.write_json(f"runs/{folder.name}/{RECIPE_FILE}", loaded.recipe.model_dump(mode="json", by_alias=True))
            record = cls(store, folder, mark_live(store, folder))
            save_last_run(store, loaded.path, overrides, loaded.profiles)
        return record

    def end(self) -> None:
        """The run is over."""
        clear_live(self.folder)

    def write_event(self, event: Event) -> None:
        """Write an event down; a disk that refuses spoils no run."""
        line = redact_secrets(json.dumps({"time": round(time.time(), 3), **as_json(event)})) + "\n"
        try:
            with (self.folder / EVENTS_FILE).open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError:
            return

    def save_stage_key(self, stage: str, key: str, resume_key: str) -> None:
        """Note what a stage was asked: a later plan says what changed, and no gc takes it from this run."""
        if self.store.read_only:
            return
        self.roots.keys[stage], self.roots.work[stage] = key, resume_key
        with disk_errors(f"writing into the store {self.store.root}"):
            save_roots(self.store, self.folder, self.roots)
            self.store.write_json(f"runs/{self.folder.name}/{KEYS_FILE}", self.roots.keys)

    def log_crash(self, stage: str, error: BaseException, oom_fix: str) -> DbrunError:
        """Put an unforeseen error's traceback into the log; the error for people. oom_fix: what takes less memory."""
        log = self.folder / "log"
        try:
            with log.open("a", encoding="utf-8") as file:
                file.write(redact_secrets("".join(traceback.format_exception(error))))
        except OSError:
            log = self.folder
        if isinstance(error, OSError) and error.errno in ERRNO_MESSAGES:
            return explain_os_error(error, f"{stage} could not go on")
        # libraries in other languages give the system's words without its number
        for number in ERRNO_MESSAGES:
            if os.strerror(number) in str(error):
                return explain_os_error(OSError(number, "", None), f"{stage} could not go on")
        if is_out_of_memory(error):
            return StageFailed(f"{stage} ran out of memory", fix=f"{oom_fix}; the details are in {log}")
        words = (redact_secrets(str(error)).strip() or "no message").splitlines()[0][:300]
        return StageFailed(f"{stage} failed: {type(error).__name__}: {words}",
                           fix=f"the details are in {log}; what was finished is kept")


@dataclass
class EventDispatcher:
    """Passes events to the listener and, once there is one, to the run's record. current_stage: the one at work."""

    listener: Emit
    run_log: RunLog | None = None
    current_stage: str | None = None

    def __call__(self, event: Event) -> None:
        """Pass one event on."""
        if isinstance(event, StageStarted | StageFinished):
            self.current_stage = event.stage if isinstance(event, StageStarted) else None
        if self.run_log is not None:
            self.run_log.write_event(event)
        self.listener(event)

    def run_failed(self, error: DbrunError) -> None:
        """Tell how the run ended."""
        self(RunFailed(self.current_stage, error.message, error.fix, error.exit_code))
