"""What the verbs that read or write a single file do."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import DbrunError, RecipeError, UsageError
from dbrun.ui.terminal import complain, put, say

if TYPE_CHECKING:
    from dbrun.events import Note
    from dbrun.recipe.text.spans import Problem
    from dbrun.store.store import Store

VERSION = "dbrun/v1"
"""The version of the recipe language that this dbrun knows."""

BESIDE = ("written", "stages", "versions", "machine")
"""What the record beside an adapter tells that its header does not."""


@dataclass(frozen=True)
class Checked:
    """A recipe that was checked. warnings: what is odd; unseen: what was not looked at."""

    problems: tuple[Problem, ...] = ()
    warnings: tuple[Note, ...] = ()
    unseen: tuple[str, ...] = ()


def validate_all(files: Sequence[Path], overrides: Sequence[str], profiles: Sequence[str], *, as_json: bool,
                 alone: bool) -> bool:
    """Check each recipe and say what is wrong with it; whether all are right.

    alone: leave aside what they point at.
    """
    from dbrun.store.store import store_at_hand

    store = store_at_hand()
    found = {}
    for file in files:
        found[str(file)] = one = _check(file, overrides, profiles, store, alone)
        if not as_json:
            _tell(file, one, named=len(files) > 1)
    if as_json:
        put(json.dumps({"format_version": 1, "files": [
            {"file": file, "valid": not one.problems, "problems": [problem.as_json() for problem in one.problems],
             "warnings": [note.text for note in one.warnings], "unseen": one.unseen}
            for file, one in found.items()]}, indent=1))
    return not any(one.problems for one in found.values())


def _check(file: Path, overrides: Sequence[str], profiles: Sequence[str], store: Store, alone: bool) -> Checked:
    from dbrun.recipe.load import read_recipe
    from dbrun.recipe.text.spans import Problem, Problems
    from dbrun.resolve.sources import locate

    try:
        loaded, wrong = read_recipe(file, overrides, profiles)
        if alone:
            return Checked(wrong, unseen=("its base", "its pictures"))
        located = locate(loaded, store, False, wrong)
    except RecipeError as error:
        every = error.problems if isinstance(error, Problems) else (Problem(None, "", error.message, error.fix),)
        return Checked(tuple(problem for problem in every if not problem.fetched),
                       unseen=tuple(f"`{problem.key}`" for problem in every if problem.fetched))
    unseen = ("its base",) if located.sources.base.folder is None else ()
    return Checked((), tuple(note for note in located.notes if note.level == "warning"), unseen)


def _tell(file: Path, one: Checked, *, named: bool) -> None:
    """named: say which file it is, where others are checked beside it."""
    from dbrun.recipe.text.spans import Problems
    from dbrun.ui.terminal import warning

    if one.problems:
        if named:
            say(f"{file}: not valid")
        complain(Problems(one.problems))
        return
    for note in one.warnings:
        say(warning(f"{file}: {note.text}"))
    put(f"{file}: valid{f'; not looked at: {listed}' if (listed := ', '.join(one.unseen)) else ''}")


def migrate_all(files: Sequence[Path], *, as_json: bool) -> bool:
    """Say of each recipe which version of the language it is written in; whether this dbrun knows them all.

    There is one version so far, so there is nothing to rewrite yet.
    """
    found = {str(file): _version(file) for file in files}
    if as_json:
        put(json.dumps({"format_version": 1, "files": [
            {"file": file, "schema": said, "current": error is None, "error": error.as_json() if error else None}
            for file, (said, error) in found.items()]}, indent=1))
        return not any(error for _, error in found.values())
    for file, (said, error) in found.items():
        if error:
            complain(error)
        elif said is None:
            put(f"{file}: no `schema`; what a recipe extends may say it, any other needs `schema: {VERSION}`")
        else:
            put(f"{file}: {said}, nothing to do")
    return not any(error for _, error in found.values())


def _version(file: Path) -> tuple[str | None, DbrunError | None]:
    """The version that a recipe says it is written in, and what is wrong with that or with the file."""
    from dbrun.recipe.checks.messages import newer
    from dbrun.recipe.text.yaml import version

    try:
        said = version(file)
    except RecipeError as error:
        return None, error
    if said in (None, VERSION):
        return said, None
    later = newer(said, [VERSION])
    return said, UsageError(f"{file}: found the version '{said}', this dbrun knows {VERSION} only",
                            fix="pip install --upgrade dbrun" if later else f"write `schema: {VERSION}`")


def schema_is_current(file: Path) -> bool:
    """Whether file holds the schema of this version; says how to mend it where it does not."""
    from dbrun.recipe.checks.json_schema import schema_text

    if not file.is_file():
        say(f"there is no file {file}\n  → dbrun schema > {file}")
        return False
    if file.read_text(encoding="utf-8") == schema_text():
        return True
    say(f"{file} is not the schema of this version\n  → dbrun schema > {file}")
    return False


def write_starter(name: str) -> None:
    """Write a commented recipe, never over another file."""
    from dbrun.recipe.new import starter
    from dbrun.recipe.schema.model import NAME, PATTERNS

    if not re.fullmatch(NAME, name):
        raise UsageError(f"{name!r} cannot be a name; allowed: {PATTERNS[NAME]}")
    home = Path("recipes")
    target = (home if home.is_dir() else Path()) / f"{name}.yaml"
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(starter(name, target))
    except FileExistsError:
        raise UsageError(f"{target} exists already", fix="choose another name") from None
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from None
    say(f"edit it, then: dbrun run {target}")
    put(str(target))


def show_provenance(adapter: Path, *, as_json: bool) -> None:
    """Print where an adapter comes from: what its header says, and the record that lies beside it."""
    from dbrun.safetensors_header import read, record_beside
    from dbrun.ui.provenance import outline

    facts = read(adapter)
    if record := record_beside(adapter, facts):
        facts["record"] = {part: record[part] for part in BESIDE if part in record}
    if as_json:
        put(json.dumps({"format_version": 1, **facts}, indent=1, ensure_ascii=False))
    else:
        put(outline(facts))


def write_comparison(words: Sequence[str], output: Path) -> None:
    """Write one picture of several exports; each word is a folder, or a label and a folder."""
    from dbrun.images.grid import save_png
    from dbrun.images.samples import side_by_side

    labelled = [_labelled(word) for word in words]
    exports = dict(labelled)
    if len(exports) < len(labelled):
        raise UsageError("two rows have one name", fix="name each: LABEL=FOLDER")
    picture = side_by_side(exports)
    try:
        save_png(picture, output)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    put(str(output))


def _labelled(word: str) -> tuple[str, Path]:
    """LABEL=FOLDER, or a folder, whose row then has the folder's name."""
    label, said, folder = word.partition("=")
    if said and not Path(word).is_dir():
        return label, Path(folder)
    return Path(word).resolve().name, Path(word)
