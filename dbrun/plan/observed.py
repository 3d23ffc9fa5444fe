"""What did a run look at that had nothing to do? Written down, so that the same command can be answered by stats alone.

Every file that the process opens and every folder that it lists is heard of from Python itself, so that a new kind of
source cannot be forgotten. A record is kept only if all of it last changed well before the run began: then it is also
what the run has seen.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import dbrun
from dbrun.plan import hub
from dbrun.plan.history import LAST
from dbrun.plan.runner import Outcome
from dbrun.plan.unchanged import FOLDER, FORMAT, look, question
from dbrun.recipe.checks import HUB_ID
from dbrun.recipe.load import LoadedRecipe
from dbrun.store.digests import SETTLED
from dbrun.store.disk import replace_file
from dbrun.store.store import Store

Look = tuple[str, str]
HEARD = ("open", "os.listdir", "os.scandir")
SYSTEM = ("/proc/", "/sys/")
DEVICES = "/dev"
"""Folders of the system that hold no files; what counts of them is in `unchanged.question`."""
LONGEST = 1024
KEPT = 64
"""Records that stay; the oldest go."""
_listeners: list[set[str]] = []


def _hear(event: str, args: tuple[object, ...]) -> None:
    if _listeners and event in HEARD and args and isinstance(args[0], (str, Path)):
        for heard in _listeners:
            heard.add(os.fspath(args[0]))


@dataclass(frozen=True)
class Observation:
    """What this process reads from a time on. Call `stop` when the run is over."""

    began: float = field(default_factory=time.time)
    heard: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not getattr(_hear, "hooked", False):
            sys.addaudithook(_hear)
            _hear.hooked = True  # type: ignore[attr-defined]
        _listeners.append(self.heard)

    def stop(self) -> None:
        """Hear nothing more."""
        _listeners[:] = [heard for heard in _listeners if heard is not self.heard]

    def keep(self, words: Sequence[str], loaded: LoadedRecipe, store: Store, outcome: Outcome, said: str,
             put: str) -> None:
        """Record a run that had nothing to do, if all that it saw is old enough to be trusted.

        words: the command's; said, put: what it wrote to stderr and stdout.
        """
        self.stop()
        with suppress(OSError):
            looks = []
            for how, path in self._places(loaded, store, outcome):
                state, changed = look(how, path)
                if changed > self.began - SETTLED:
                    return
                looks.append((how, path, state))
            record = {"format": FORMAT, "looks": looks, "name": loaded.recipe.name, "run": outcome.run_id,
                      "last": (store.root / LAST).read_text(encoding="utf-8"), "said": said, "put": put}
            folder = store.root / FOLDER
            replace_file(folder / question(words), json.dumps(record).encode(), scratch=store.scratch, durable=False)
            _thin(folder)

    def _places(self, loaded: LoadedRecipe, store: Store, outcome: Outcome) -> list[Look]:
        recipes = [str(path) for path in loaded.files]
        trees = {str(Path(dbrun.__file__).parent), *_named(loaded),
                 *(str(artifact.path) for artifact in outcome.artifacts.values())}
        if outcome.outputs is not None:
            trees.add(str(outcome.outputs.absolute()))
        if HUB_ID.fullmatch(loaded.recipe.base.path):
            trees.add(str(hub.repository(loaded.recipe.base.path)))
        single = _outside(trees, {os.path.abspath(p) for p in (*self.heard, *store.digests.asked)})
        inside = f"{store.root}{os.sep}"
        read = {path for path in single if not path.startswith(inside) and path not in recipes}
        traces = {path for path in single if path.startswith(os.path.join(inside, "traces", ""))}
        around = _outside(trees, {os.path.dirname(path) for path in read})
        entries = sorted({*read, *traces, *around, *(path for path in sys.path if path)} - trees)
        return [*(("bytes", path) for path in recipes), *(("tree", path) for path in sorted(trees)),
                *(("entry", path) for path in entries)]


def _outside(trees: Iterable[str], paths: Iterable[str]) -> set[str]:
    """The paths that lie in none of the trees, nor among the system's; compiled Python aside."""
    covered = (*(tree + os.sep for tree in trees), *SYSTEM)
    return {path for path in paths if not path.startswith(covered) and "__pycache__" not in path
            and path != DEVICES}


def _named(loaded: LoadedRecipe) -> Iterator[str]:
    """Whatever a text of the recipe may name beside the file in which it stands, whether it is there or not."""
    for key, text in _texts("", loaded.recipe.model_dump(by_alias=True)):
        if len(text) <= LONGEST and "\0" not in text:
            with suppress(RuntimeError):
                yield os.path.normpath(loaded.folder_of(key) / Path(text).expanduser())


def _texts(key: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for name, below in inner:
        yield from _texts(f"{key}.{name}" if key else str(name), below)


def _thin(folder: Path) -> None:
    records = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in records[KEPT:]:
        path.unlink(missing_ok=True)
