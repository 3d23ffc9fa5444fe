"""What is written down about a run while it goes on, in `runs/<id>/`?"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dbrun.errors import DbrunError, StageFailed, out_of_memory
from dbrun.events import Event, as_json
from dbrun.plan.history import new_run, remember, run_id
from dbrun.recipe.load import LoadedRecipe
from dbrun.secrets import hidden
from dbrun.store.atomic import WORDS, disk_errors, said
from dbrun.store.runs import EVENTS, KEYS, RECIPE, Wants, announce, leave, want
from dbrun.store.store import Store


@dataclass(frozen=True)
class Record:
    """A run's folder: recipe.json, what it wants of the store, events.jsonl, and log where something went wrong."""

    store: Store
    folder: Path
    wants: Wants = field(default_factory=Wants)

    @classmethod
    def begin(cls, store: Store, loaded: LoadedRecipe, overrides: Sequence[str]) -> Record:
        """Start the record of a run; where the store takes nothing, there is none."""
        if store.read_only:
            return cls(store, store.runs / run_id(loaded.recipe.name))
        with disk_errors(f"writing into the store {store.root}"), store.using():
            folder = new_run(store, loaded.recipe.name)
            store.replace(f"runs/{folder.name}/{RECIPE}", loaded.recipe.model_dump(mode="json", by_alias=True))
            record = cls(store, folder, announce(store, folder))
            remember(store, loaded.path, overrides, loaded.profiles)
        return record

    def end(self) -> None:
        """The run is over."""
        leave(self.folder)

    def event(self, event: Event) -> None:
        """Write an event down; a disk that refuses spoils no run."""
        line = hidden(json.dumps({"time": round(time.time(), 3), **as_json(event)})) + "\n"
        try:
            with (self.folder / EVENTS).open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError:
            return

    def asked(self, stage: str, key: str, lineage: str) -> None:
        """Note what a stage was asked: a later plan says what changed, and no gc takes it from this run."""
        if self.store.read_only:
            return
        self.wants.keys[stage], self.wants.work[stage] = key, lineage
        with disk_errors(f"writing into the store {self.store.root}"):
            want(self.store, self.folder, self.wants)
            self.store.replace(f"runs/{self.folder.name}/{KEYS}", self.wants.keys)

    def crash(self, stage: str, error: BaseException, lighter: str) -> DbrunError:
        """Put an unforeseen error's traceback into the log; the error for people. lighter: what takes less memory."""
        log = self.folder / "log"
        try:
            with log.open("a", encoding="utf-8") as file:
                file.write(hidden("".join(traceback.format_exception(error))))
        except OSError:
            log = self.folder
        if isinstance(error, OSError) and error.errno in WORDS:
            return said(error, f"{stage} could not go on")
        # libraries in other languages give the system's words without its number
        for number in WORDS:
            if os.strerror(number) in str(error):
                return said(OSError(number, "", None), f"{stage} could not go on")
        if out_of_memory(error):
            return StageFailed(f"{stage} ran out of memory", fix=f"{lighter}; the details are in {log}")
        words = (hidden(str(error)).strip() or "no message").splitlines()[0][:300]
        return StageFailed(f"{stage} failed: {type(error).__name__}: {words}",
                           fix=f"the details are in {log}; what was finished is kept")
