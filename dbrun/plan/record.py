"""What is written down about a run while it goes on, in `runs/<id>/`?"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dbrun.errors import DbrunError, StageFailed
from dbrun.events import Event, as_json
from dbrun.plan.history import new_run, remember
from dbrun.recipe.load import LoadedRecipe
from dbrun.store.disk import FULL, WORDS, disk_errors, said
from dbrun.store.store import Store


@dataclass(frozen=True)
class Record:
    """A run's folder: recipe.json, keys.json, events.jsonl, and log where something went wrong."""

    store: Store
    folder: Path
    _keys: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, store: Store, loaded: LoadedRecipe, overrides: Sequence[str]) -> Record:
        """Start the record of a run."""
        with disk_errors(f"writing into the store {store.root}"):
            record = cls(store, new_run(store, loaded.recipe.name))
            record._write("recipe.json", loaded.recipe.model_dump(mode="json", by_alias=True))
            remember(store, loaded.path, overrides)
        return record

    def event(self, event: Event) -> None:
        """Write an event down; a disk that refuses spoils no run."""
        line = json.dumps({"time": round(time.time(), 3), **as_json(event)}) + "\n"
        try:
            with (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError:
            return

    def asked(self, stage: str, key: str) -> None:
        """Note what a stage was asked, so that a later plan can say what changed."""
        self._keys[stage] = key
        with disk_errors(f"writing into the store {self.store.root}"):
            self._write("keys.json", self._keys)

    def crash(self, stage: str, error: BaseException) -> DbrunError:
        """Put an unforeseen error's traceback into the log; the error for people."""
        log = self.folder / "log"
        try:
            with log.open("a", encoding="utf-8") as file:
                file.write("".join(traceback.format_exception(error)))
        except OSError:
            log = self.folder
        if isinstance(error, OSError) and error.errno in WORDS:
            return said(error, f"{stage} could not go on")
        if "No space left on device" in str(error):
            return said(OSError(FULL, "", None), f"{stage} could not go on")
        words = (str(error).strip() or "no message").splitlines()[0][:300]
        return StageFailed(f"{stage} failed: {type(error).__name__}: {words}",
                           fix=f"the details are in {log}; what was finished is kept")

    def _write(self, name: str, document: object) -> None:
        self.store.replace(f"runs/{self.folder.name}/{name}", document)
