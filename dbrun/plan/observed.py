"""What did a command look at that changed nothing? Written down, so that it can be answered by stats alone next time.

Every file that the process opens and every folder that it lists is heard of from Python itself, so that a new kind of
source cannot be forgotten. A record is kept only if all of it last changed well before the command began: then it is
also what the command has seen.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

import dbrun
from dbrun.plan import hub
from dbrun.plan.history import LAST
from dbrun.plan.unchanged import FOLDER, FORMAT, STAMP, look, question
from dbrun.recipe.checks import HUB_ID
from dbrun.recipe.load import LoadedRecipe
from dbrun.store.digests import SETTLED
from dbrun.store.disk import replace_file
from dbrun.store.store import Store
from dbrun.values import dataclass

if TYPE_CHECKING:
    from dbrun.plan.runner import Outcome

Look = tuple[str, str]
HEARD = ("open", "os.listdir", "os.scandir")
SYSTEM = ("/proc/", "/sys/")
DEVICES = "/dev"
"""Folders of the system that hold no files; what counts of them is in `unchanged.question`."""
IN_STORE = ("traces", "runs", "work")
"""Parts of the store that answers depend on."""
LONGEST = 1024
KEPT = 64
"""Records that stay; the oldest go."""
_listeners: list[set[str]] = []


def _hear(event: str, args: tuple[object, ...]) -> None:
    if _listeners and event in HEARD and args and isinstance(args[0], (str, Path)):
        for heard in _listeners:
            heard.add(os.fspath(args[0]))


@dataclass(frozen=True)
class Seen:
    """What is known to have been looked at. files: those whose bytes count; trees: folders with all in them."""

    files: Sequence[Path]
    trees: Sequence[str] = ()


@dataclass(frozen=True)
class Observation:
    """What this process reads from a time on, until it is closed."""

    began: float = field(default_factory=time.time)
    heard: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not getattr(_hear, "hooked", False):
            sys.addaudithook(_hear)
            _hear.hooked = True  # type: ignore[attr-defined]
        _listeners.append(self.heard)

    def close(self) -> None:
        """Hear nothing more."""
        _listeners[:] = [heard for heard in _listeners if heard is not self.heard]

    def keep(self, words: Sequence[str], store: Store, seen: Seen, said: Sequence[tuple[str, str]], *,
             exit_code: int = 0, run: Outcome | None = None) -> None:
        """Record a command that changed nothing, if all that it saw is old enough to be trusted.

        words: the command's; said: what it wrote; run: what the runner did, if it was at work.
        """
        self.close()
        if not store.root.is_dir():
            return
        with suppress(OSError):
            looks = []
            for how, path in self._places(store, seen, run is None):
                state, changed = look(how, path)
                if changed > self.began - SETTLED:
                    return
                looks.append((how, path, state))
            record = {"format": FORMAT, "looks": looks, "said": said, "exit_code": exit_code,
                      "run": _run_facts(store, run) if run is not None else None}
            folder = store.root / FOLDER
            replace_file(folder / question(words), json.dumps(record).encode(), scratch=store.scratch, durable=False)
            _thin(folder)

    def _places(self, store: Store, seen: Seen, listed: bool) -> list[Look]:
        """What to look at, and how. listed: what the store's folders list counts, not only files in them."""
        commits = store.root / "commits.table"
        contents = [str(path) for path in (*seen.files, *([commits] if commits.exists() else []))]
        trees = {str(Path(dbrun.__file__).parent), *map(str, seen.trees)}
        single = _outside(trees, {os.path.abspath(p) for p in (*self.heard, *store.digests.asked)})
        inside = f"{store.root}{os.sep}"
        read = {path for path in single if not path.startswith(inside) and path not in contents}
        parts = IN_STORE if listed else IN_STORE[:1]
        stored = {path for path in single if path.startswith(inside)
                  and path.removeprefix(inside).partition(os.sep)[0] in parts}
        around = _outside(trees, {os.path.dirname(path) for path in read} - {str(store.root)})
        entries = sorted({*read, *stored, *around, *(path for path in sys.path if path)} - trees)
        return [*(("bytes", path) for path in contents), *(("tree", path) for path in sorted(trees)),
                *(("entry", path) for path in entries if path != str(store.root))]


def seen_by(loaded: LoadedRecipe, store: Store, digests: Iterable[str], outputs: Path | None = None) -> Seen:
    """What a recipe and the results that it has make a command look at. digests: of the results."""
    trees = [*_named(loaded), *(str(store.objects.path(digest)) for digest in digests)]
    if outputs is not None:
        trees.append(str(outputs.absolute()))
    if HUB_ID.fullmatch(loaded.recipe.base.path):
        trees.append(str(hub.repository(loaded.recipe.base.path)))
    return Seen(loaded.files, tuple(trees))


def _run_facts(store: Store, run: Outcome) -> dict[str, str]:
    return {"name": run.run_id[STAMP:], "id": run.run_id, "last": (store.root / LAST).read_text(encoding="utf-8")}


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
