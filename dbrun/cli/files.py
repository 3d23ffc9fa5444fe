"""The work of the verbs that read or write single files: `validate`, `migrate`, `show`, `compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import DbrunError, RecipeError, UsageError
from dbrun.input_file import MAX_JSON_BYTES, file_exists, folder_exists, read_file
from dbrun.ui.terminal import print_error, print_result, print_status

if TYPE_CHECKING:
    from dbrun.api.results import Validation

VERSION = "dbrun/v1"
"""The version of the recipe language that this dbrun knows."""


def validate_all(files: Sequence[Path], overrides: Sequence[str], profiles: Sequence[str], *, as_json: bool,
                 alone: bool) -> bool:
    """Check each recipe and print what is wrong with it; return whether all are valid.

    alone: do not look at the base and the pictures that they name.
    """
    from dbrun.api.reading import check_request
    from dbrun.cli.words import parse_request

    results = {}
    for file in files:
        result = check_request(parse_request(file, overrides, profiles), alone=alone)
        results[str(file)] = result
        # At once, not at the end: pictures of one recipe can take minutes to read.
        if not as_json:
            _print_validation(file, result, named=len(files) > 1)
    if as_json:
        documents = []
        for name, result in results.items():
            document = result.to_json()
            del document["format_version"]
            documents.append({"file": name, **document})
        print_result(json.dumps({"format_version": 1, "files": documents}, indent=1))
    return all(result.is_valid for result in results.values())


def _print_validation(file: Path, result: Validation, *, named: bool) -> None:
    """Print a result. named: name the file before its problems, because several files are checked."""
    from dbrun.recipe.text.spans import InvalidRecipe
    from dbrun.ui.terminal import warning_text

    if result.problems:
        if named:
            print_status(f"{file}: not valid")
        print_error(InvalidRecipe(result.problems))
        return
    for note in result.warnings:
        print_status(warning_text(f"{file}: {note.text}"))
    verdict = f"{file}: valid"
    if result.not_checked:
        verdict += f"; not looked at: {', '.join(result.not_checked)}"
    print_result(verdict)


def migrate_all(files: Sequence[Path], *, as_json: bool) -> bool:
    """Print the version of the recipe language of each recipe; return whether this dbrun knows them all.

    There is one version so far, so there is nothing to rewrite yet.
    """
    versions = {str(file): _version(file) for file in files}
    all_known = not any(error for _, error in versions.values())
    if as_json:
        documents = []
        for file, (version, error) in versions.items():
            error_json = error.to_json() if error else None
            documents.append({"file": file, "schema": version, "current": error is None, "error": error_json})
        print_result(json.dumps({"format_version": 1, "files": documents}, indent=1))
        return all_known
    for file, (version, error) in versions.items():
        if error:
            print_error(error)
        elif version is None:
            print_result(f"{file}: no `schema`; this file, or one that it extends, needs `schema: {VERSION}`")
        else:
            print_result(f"{file}: {version}, nothing to do")
    return all_known


def _version(file: Path) -> tuple[str | None, DbrunError | None]:
    """The `schema` of a recipe (None if it has none), and the error if it is unknown or the file cannot be read."""
    from dbrun.recipe.checks.messages import is_newer
    from dbrun.recipe.text.yaml import schema_version

    try:
        version = schema_version(file)
    except RecipeError as error:
        return None, error
    if version in (None, VERSION):
        return version, None
    fix = "pip install --upgrade dbrun" if is_newer(version, [VERSION]) else f"write `schema: {VERSION}`"
    return version, UsageError(f"{file}: found the version '{version}', this dbrun knows {VERSION} only", fix=fix)


def schema_is_current(file: Path) -> bool:
    """Whether file holds the JSON schema of this dbrun; if not, print the command that writes it."""
    from dbrun.recipe.checks.json_schema import schema_text

    if not file_exists(file):
        print_status(f"there is no file {file}\n  → dbrun schema > {file}")
        return False
    if read_file(file, MAX_JSON_BYTES).decode(errors="replace") == schema_text():
        return True
    print_status(f"{file} is not the schema of this version\n  → dbrun schema > {file}")
    return False


def show_provenance(adapter: Path, *, as_json: bool) -> None:
    """Print what an adapter is, and the provenance of one of dbrun's: its header and the `dbrun.json` beside it.

    adapter: a file or a PEFT folder of any program, or a folder that a run delivered.
    """
    from dbrun.api.use import named_file, show
    from dbrun.ui.provenance import outline

    file = named_file(adapter)
    facts = show(file)
    if adapter.is_dir():
        print_status(f"of {file}")
    if as_json:
        print_result(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        del facts["format_version"]
        print_result(outline(facts))


def write_comparison(words: Sequence[str], output: Path) -> None:
    """Write one picture with the samples of several exports. words: FOLDER or LABEL=FOLDER. Raises UsageError."""
    from dbrun.images.grid import save_png
    from dbrun.images.samples import comparison_grid

    labelled = [_parse_labelled(word) for word in words]
    exports = dict(labelled)
    if len(exports) < len(labelled):
        raise UsageError("two rows have the same name", fix="name each: LABEL=FOLDER")
    picture = comparison_grid(exports)
    try:
        save_png(picture, output)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    print_result(str(output))


def _parse_labelled(word: str) -> tuple[str, Path]:
    """The label and the folder of FOLDER or LABEL=FOLDER; without a label, the folder's name."""
    label, equals, folder = word.partition("=")
    # A folder's own name may hold an equals sign.
    if equals and not folder_exists(Path(word)):
        return label, Path(folder)
    # Resolved, so that `.` has a name.
    return Path(word).resolve().name, Path(word)
