"""The work of the verbs that read or write single files: `validate`, `migrate`, `new`, `show`, `compare`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import DbrunError, RecipeError, UsageError
from dbrun.ui.terminal import print_error, print_result, print_status

if TYPE_CHECKING:
    from dbrun.events import Note
    from dbrun.recipe.text.spans import Problem
    from dbrun.store.store import Store

VERSION = "dbrun/v1"
"""The version of the recipe language that this dbrun knows."""

RECORD_PARTS = ("written", "stages", "versions", "machine")
"""What the record beside an adapter tells that its header does not."""


@dataclass(frozen=True)
class ValidationResult:
    """A recipe that was checked. warnings: what is odd; not_checked: what was not looked at."""

    problems: tuple[Problem, ...] = ()
    warnings: tuple[Note, ...] = ()
    not_checked: tuple[str, ...] = ()


def validate_all(files: Sequence[Path], overrides: Sequence[str], profiles: Sequence[str], *, as_json: bool,
                 alone: bool) -> bool:
    """Check each recipe and say what is wrong with it; whether all are right.

    alone: leave aside what they point at.
    """
    from dbrun.store.store import current_store

    store = current_store()
    found = {}
    for file in files:
        found[str(file)] = one = _validate(file, overrides, profiles, store, alone)
        if not as_json:
            _print_validation(file, one, named=len(files) > 1)
    if as_json:
        print_result(json.dumps({"format_version": 1, "files": [
                     {"file": file, "valid": not one.problems,
                      "problems": [problem.as_json() for problem in one.problems],
                      "warnings": [note.text for note in one.warnings], "unseen": one.not_checked}
                     for file, one in found.items()]}, indent=1))
    return not any(one.problems for one in found.values())


def _validate(file: Path, overrides: Sequence[str], profiles: Sequence[str], store: Store,
              alone: bool) -> ValidationResult:
    from dbrun.recipe.load import load_with_problems
    from dbrun.recipe.text.spans import InvalidRecipe, Problem
    from dbrun.resolve.sources import resolve_sources

    try:
        loaded, wrong = load_with_problems(file, overrides, profiles)
        if alone:
            return ValidationResult(wrong, not_checked=("its base", "its pictures"))
        resolved = resolve_sources(loaded, store, False, wrong)
    except RecipeError as error:
        every = error.problems if isinstance(error, InvalidRecipe) else (Problem(None, "", error.message, error.fix),)
        return ValidationResult(tuple(problem for problem in every if not problem.fixed_by_fetch),
                                not_checked=tuple(f"`{problem.key}`" for problem in every if problem.fixed_by_fetch))
    unseen = ("its base",) if resolved.sources.base.folder is None else ()
    return ValidationResult((), tuple(note for note in resolved.notes if note.level == "warning"), unseen)


def _print_validation(file: Path, one: ValidationResult, *, named: bool) -> None:
    """named: say which file it is, where others are checked beside it."""
    from dbrun.recipe.text.spans import InvalidRecipe
    from dbrun.ui.terminal import warning_text

    if one.problems:
        if named:
            print_status(f"{file}: not valid")
        print_error(InvalidRecipe(one.problems))
        return
    for note in one.warnings:
        print_status(warning_text(f"{file}: {note.text}"))
    print_result(f"{file}: valid{f'; not looked at: {listed}' if (listed := ', '.join(one.not_checked)) else ''}")


def migrate_all(files: Sequence[Path], *, as_json: bool) -> bool:
    """Say of each recipe which version of the language it is written in; whether this dbrun knows them all.

    There is one version so far, so there is nothing to rewrite yet.
    """
    found = {str(file): _version(file) for file in files}
    if as_json:
        print_result(json.dumps({"format_version": 1, "files": [
                     {"file": file, "schema": said, "current": error is None,
                      "error": error.as_json() if error else None}
                     for file, (said, error) in found.items()]}, indent=1))
        return not any(error for _, error in found.values())
    for file, (said, error) in found.items():
        if error:
            print_error(error)
        elif said is None:
            print_result(f"{file}: no `schema`; what a recipe extends may say it, any other needs `schema: {VERSION}`")
        else:
            print_result(f"{file}: {said}, nothing to do")
    return not any(error for _, error in found.values())


def _version(file: Path) -> tuple[str | None, DbrunError | None]:
    """The version that a recipe says it is written in, and what is wrong with that or with the file."""
    from dbrun.recipe.checks.messages import is_newer
    from dbrun.recipe.text.yaml import schema_version

    try:
        said = schema_version(file)
    except RecipeError as error:
        return None, error
    if said in (None, VERSION):
        return said, None
    later = is_newer(said, [VERSION])
    return said, UsageError(f"{file}: found the version '{said}', this dbrun knows {VERSION} only",
                            fix="pip install --upgrade dbrun" if later else f"write `schema: {VERSION}`")


def schema_is_current(file: Path) -> bool:
    """Whether file holds the schema of this version; says how to mend it where it does not."""
    from dbrun.recipe.checks.json_schema import schema_text

    if not file.is_file():
        print_status(f"there is no file {file}\n  → dbrun schema > {file}")
        return False
    if file.read_text(encoding="utf-8") == schema_text():
        return True
    print_status(f"{file} is not the schema of this version\n  → dbrun schema > {file}")
    return False


def write_starter(name: str) -> None:
    """Write a commented recipe, never over another file."""
    from dbrun.recipe.new import starter_recipe
    from dbrun.recipe.schema.model import NAME_PATTERN, PATTERN_WORDS

    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(f"{name!r} cannot be a name; allowed: {PATTERN_WORDS[NAME_PATTERN]}")
    home = Path("recipes")
    target = (home if home.is_dir() else Path()) / f"{name}.yaml"
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(starter_recipe(name, target))
    except FileExistsError:
        raise UsageError(f"{target} exists already", fix="choose another name") from None
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from None
    print_status(f"edit it, then: dbrun run {target}")
    print_result(str(target))


def show_provenance(adapter: Path, *, as_json: bool) -> None:
    """Print where an adapter comes from: what its header says, and the record that lies beside it."""
    from dbrun.safetensors_header import find_record, read_provenance
    from dbrun.ui.provenance import outline

    facts = read_provenance(adapter)
    if record := find_record(adapter, facts):
        facts["record"] = {part: record[part] for part in RECORD_PARTS if part in record}
    if as_json:
        print_result(json.dumps({"format_version": 1, **facts}, indent=1, ensure_ascii=False))
    else:
        print_result(outline(facts))


def write_comparison(words: Sequence[str], output: Path) -> None:
    """Write one picture of several exports; each word is a folder, or a label and a folder."""
    from dbrun.images.grid import save_png
    from dbrun.images.samples import comparison_grid

    labelled = [_parse_labelled(word) for word in words]
    exports = dict(labelled)
    if len(exports) < len(labelled):
        raise UsageError("two rows have one name", fix="name each: LABEL=FOLDER")
    picture = comparison_grid(exports)
    try:
        save_png(picture, output)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    print_result(str(output))


def _parse_labelled(word: str) -> tuple[str, Path]:
    """LABEL=FOLDER, or a folder, whose row then has the folder's name."""
    label, said, folder = word.partition("=")
    if said and not Path(word).is_dir():
        return label, Path(folder)
    return Path(word).resolve().name, Path(word)
