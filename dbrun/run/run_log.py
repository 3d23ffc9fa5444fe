"""The record of a run in `runs/<id>/`: its recipe, events, stage keys and tracebacks."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dbrun.errors import DbrunError, StageFailed, is_nondeterministic, is_out_of_memory
from dbrun.events import Emit, Event, RunFailed, StageFinished, StageStarted
from dbrun.plan.history import create_run_folder, new_run_id, save_last_run
from dbrun.recipe.load import LoadedRecipe
from dbrun.secrets import redact_secrets
from dbrun.store.atomic import ERRNO_MESSAGES, disk_errors, explain_os_error
from dbrun.store.runs import EVENTS_FILE, KEYS_FILE, RECIPE_FILE, GcRoots, clear_live, mark_live, mark_noop, save_roots
from dbrun.store.store import Store


@dataclass(frozen=True)
class RunLog:
    """A run's folder: recipe.json, its gc roots (wants.json), events.jsonl, and log if a stage crashed.

    roots: the keys and work folders that no gc may take from this run; grows during the run.
    """

    store: Store
    folder: Path
    roots: GcRoots = field(default_factory=GcRoots)

    @classmethod
    def begin(cls, store: Store, loaded: LoadedRecipe, overrides: Sequence[str]) -> RunLog:
        """Start the record of a run. In a read-only store nothing is written."""
        if store.read_only:
            return cls(store, store.runs / new_run_id(loaded.recipe.name))
        # Shared access: a gc must not see the folder before it is marked as live.
        with disk_errors(f"writing into the store {store.root}"), store.shared_access():
            folder = create_run_folder(store, loaded.recipe.name)
            store.write_json(f"runs/{folder.name}/{RECIPE_FILE}", loaded.recipe.model_dump(mode="json", by_alias=True))
            record = cls(store, folder, mark_live(store, folder))
            # what is in no file cannot be named by a later command
            if not loaded.is_text:
                save_last_run(store, loaded.path, overrides, loaded.profiles)
        return record

    def mark_noop(self) -> None:
        """Mark the run as one that found nothing to do; the records of earlier equal ones go."""
        if self.store.read_only:
            return
        # a record too many harms nothing
        with suppress(OSError):
            mark_noop(self.store, self.folder, self.roots)

    def end(self) -> None:
        """Mark the run as over."""
        clear_live(self.folder)

    def write_event(self, event: Event) -> None:
        """Append an event to events.jsonl. An error of the disk is ignored: losing a log line must not end a run."""
        line = redact_secrets(json.dumps(event.to_json())) + "\n"
        try:
            # Opened for each event, so that a killed run leaves every line that it wrote.
            with (self.folder / EVENTS_FILE).open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError:
            return

    def save_stage_keys(self, keys: Mapping[str, tuple[str, str]]) -> None:
        """Record the keys of stages: a later plan compares with them, and no gc takes their results from this run.

        keys: stage → its key and its resume key.
        """
        new = {stage: both for stage, both in keys.items() if self.roots.keys.get(stage) != both[0]}
        if self.store.read_only or not new:
            return
        for stage, (key, resume_key) in new.items():
            self.roots.keys[stage] = key
            self.roots.work[stage] = resume_key
        with disk_errors(f"writing into the store {self.store.root}"):
            # Roots first, and before the look-up: from here on a gc keeps what this stage is about to find.
            save_roots(self.store, self.folder, self.roots)
            self.store.write_json(f"runs/{self.folder.name}/{KEYS_FILE}", self.roots.keys)

    def log_crash(self, stage: str, error: BaseException, oom_fix: str) -> DbrunError:
        """Write the traceback of an unexpected error into the log; return the error to show to the user.

        oom_fix: what makes this stage need less memory.
        """
        log = self.folder / "log"
        try:
            with log.open("a", encoding="utf-8") as file:
                file.write(redact_secrets("".join(traceback.format_exception(error))))
        except OSError:
            log = self.folder
        if isinstance(error, OSError) and error.errno in ERRNO_MESSAGES:
            return explain_os_error(error, f"{stage} failed")
        # Libraries in other languages (Rust's safetensors) give the system's words without its number.
        for number in ERRNO_MESSAGES:
            if os.strerror(number) in str(error):
                return explain_os_error(OSError(number, "", None), f"{stage} failed")
        if is_out_of_memory(error):
            return StageFailed(f"{stage} ran out of memory", fix=f"{oom_fix}; the details are in {log}")
        message = redact_secrets(str(error)).strip() or "no message"
        if is_nondeterministic(error):
            return StageFailed(f"{stage}: torch has no deterministic algorithm here: {message.split(', but ')[0]}",
                               fix=f"write `train.deterministic: false`; the details are in {log}")
        first_line = message.splitlines()[0][:300]
        return StageFailed(f"{stage} failed: {type(error).__name__}: {first_line}",
                           fix=f"the details are in {log}; finished work is kept")


@dataclass
class EventDispatcher:
    """Passes events to the listener and, as soon as there is one, to the run log.

    current_stage: the stage that is running, None between stages.
    """

    listener: Emit
    run_log: RunLog | None = None
    current_stage: str | None = None

    def __call__(self, event: Event) -> None:
        """Pass one event on."""
        if isinstance(event, StageStarted):
            self.current_stage = event.stage
        elif isinstance(event, StageFinished):
            self.current_stage = None
        # The log first: a listener may raise (a closed pipe), and the record must still be complete.
        if self.run_log is not None:
            self.run_log.write_event(event)
        self.listener(event)

    def run_failed(self, error: DbrunError) -> None:
        """Emit RunFailed with the stage that was running."""
        self(RunFailed.by(error, self.current_stage))
