"""What the verbs that read or write a single file do."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from dbrun.errors import UsageError
from dbrun.ui.terminal import complain, put, say

VERSION = "dbrun/v1"
"""The version of the recipe language that this dbrun knows."""

BESIDE = ("written", "stages", "versions", "machine")
"""What the record beside an adapter tells that its header does not."""


def validate_all(files: Sequence[Path], profiles: Sequence[str], *, as_json: bool, words: Sequence[str]) -> bool:
    """Check each recipe and say what is wrong with it; whether all are right."""
    from dbrun.plan.observed import Observation, Seen
    from dbrun.store.store import store_at_hand
    from dbrun.ui.terminal import transcript

    with transcript() as said, closing(Observation()) as observation:
        found = _validated(files, profiles, as_json)
        right = not any(found.values())
        observation.keep(words, store_at_hand(), Seen(tuple(map(Path.absolute, files))), said,
                         exit_code=0 if right else 2)
    return right


def _validated(files: Sequence[Path], profiles: Sequence[str], as_json: bool) -> dict[str, list[dict[str, object]]]:
    """What is wrong with each file, which is said."""
    from dbrun.recipe.load import load_recipe
    from dbrun.recipe.places import Problems

    found: dict[str, list[dict[str, object]]] = {}
    for file in files:
        found[str(file)] = []
        try:
            load_recipe(file, (), profiles)
        except Problems as error:
            found[str(file)] = [problem.as_json() for problem in error.problems]
            if not as_json:
                complain(error)
        else:
            if not as_json:
                put(f"{file}: valid")
    if as_json:
        put(json.dumps({"format_version": 1, "files": [{"file": file, "valid": not problems, "problems": problems}
                                                       for file, problems in found.items()]}, indent=1))
    return found


def migrate_all(files: Sequence[Path]) -> bool:
    """Say of each recipe which version of the language it is written in; whether this dbrun knows them all.

    There is one version so far, so there is nothing to rewrite yet.
    """
    from dbrun.recipe.yaml import version

    known = True
    for file in files:
        found = version(file)
        if found in (None, VERSION):
            put(f"{file}: {found or 'no version of its own'}, nothing to do")
        else:
            complain(UsageError(f"{file}: found the version '{found}', this dbrun knows {VERSION} only",
                                fix="pip install --upgrade dbrun"))
            known = False
    return known


def schema_is_current(file: Path) -> bool:
    """Whether file holds the schema of this version; says how to mend it where it does not."""
    from dbrun.recipe.schema import schema_text

    if not file.is_file():
        say(f"there is no file {file}\n  → dbrun schema > {file}")
        return False
    if file.read_text(encoding="utf-8") == schema_text():
        return True
    say(f"{file} is not the schema of this version\n  → dbrun schema > {file}")
    return False


def write_starter(name: str) -> None:
    """Write a commented recipe, never over another file."""
    from dbrun.recipe.model import NAME, PATTERNS
    from dbrun.recipe.new import starter

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
    from dbrun.provenance import read, record_beside
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
    from dbrun.images.samples import side_by_side
    from dbrun.images.sheet import save_png

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
