"""What can be the next word of a command line? For the completion of shells."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import DbrunError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

YAML = (".yaml", ".yml")
"""The endings of a recipe."""


def recipes(incomplete: str) -> list[str]:
    """Recipes in the folder that the word names so far, in recipes/, and folders on the way."""
    home = Path(incomplete[:incomplete.rfind("/") + 1])
    here, usual = ([*sorted(folder.iterdir())] if folder.is_dir() else [] for folder in (home, Path("recipes")))
    folders = [f"{path}/" for path in here if path.is_dir() and not path.name.startswith(".")]
    files = [str(path) for path in dict.fromkeys((*here, *usual)) if path.suffix in YAML]
    return _begun([*files, *folders], incomplete)


def keys(incomplete: str) -> list[str]:
    """Every key that a recipe can have, with the equals sign that follows it; behind that, the words that it may be."""
    from dbrun.recipe.checks.schema_info import everywhere

    if (key := _before_equals()) is not None:
        return _begun(_values(key), incomplete)
    key, equals, value = incomplete.partition("=")
    if not equals:
        found = _begun([f"{key}=" for key in everywhere()], incomplete)
        # of two words bash completes what they have in common, and puts no space behind the equals sign
        return found if len(found) != 1 else [*found, *(found[0] + word for word in _usual(found[0][:-1]))]
    listed = value[:value.rfind(",") + 1]
    return _begun([f"{key}={listed}{word}" for word in _values(key)], incomplete)


def recipes_and_keys(incomplete: str) -> list[str]:
    """Either of them."""
    return [*recipes(incomplete), *keys(incomplete)]


def stages(incomplete: str) -> list[str]:
    """Every stage that a recipe can have."""
    from dbrun.stages.base import stages as every

    return _begun(every(), incomplete)


def profiles(incomplete: str) -> list[str]:
    """The profiles of the recipe that is named."""
    from dbrun.recipe.text.overlay import from_files
    from dbrun.recipe.text.tree import Table

    recipe = next((Path(word) for word in _line() if Path(word).suffix in YAML), None)
    try:
        found = from_files(recipe, [])[0].entries.get("profiles") if recipe else None
    except DbrunError:
        return []
    return _begun(found.entries if isinstance(found, Table) else (), incomplete)


def runs(incomplete: str) -> list[str]:
    """The names of the runs on record, then their ids, the newest first."""
    from dbrun.plan.history import newest
    from dbrun.store.store import store_at_hand

    ids = newest(store_at_hand())
    return _begun([*names(incomplete), *ids], incomplete)


def names(incomplete: str) -> list[str]:
    """The names of the runs on record."""
    from dbrun.plan.history import newest
    from dbrun.store.runs import name_of
    from dbrun.store.store import store_at_hand

    return _begun(dict.fromkeys(str(name_of(run)) for run in newest(store_at_hand())), incomplete)


def _line() -> list[str]:
    """The words on the line so far, as typer has them from the shell."""
    return (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()


def _before_equals() -> str | None:
    """The key whose value is typed in bash, which takes what stands on either side of an equals sign for words."""
    at, line = int(os.environ.get("COMP_CWORD") or 0), _line()
    return next((line[i - 1] for i in (at, at - 1) if 0 < i < len(line) and line[i] == "="), None)


def _values(key: str) -> list[str]:
    """The words that a key's value must be one of; none where it is a number, or text of one's own."""
    from dbrun.recipe.checks.schema_info import choices

    return list(dict.fromkeys(word for one in _fields(key) for word in choices(one.annotation)))


def _usual(key: str) -> list[str]:
    """The words that a key's value may be, or else the one that it has where nothing is said."""
    usual = [one.default for one in _fields(key) if isinstance(one.default, (bool, int, float, str, type(None)))]
    plain = {None: "null", True: "true", False: "false"}
    words = [plain[one] if one is None or isinstance(one, bool) else str(one) for one in usual]
    return _values(key) or list(dict.fromkeys(words))


def _fields(key: str) -> list[FieldInfo]:
    """What the models say of a key, in each part that may stand above it."""
    from dbrun.recipe.checks.schema_info import below, fields, root

    *above, last = key.split(".")
    spot = root()
    for step in above:
        spot = below(spot, step)
    return [fields(part)[last] for part in spot.parts if last in fields(part)]


def _begun(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
