"""Shell completion: what the next word of a command line can be."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import DbrunError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

YAML_SUFFIXES = (".yaml", ".yml")
"""The endings of a recipe."""


def complete_recipes(incomplete: str) -> list[str]:
    """Recipes in the folder that the word names so far, in recipes/, and folders on the way."""
    home = Path(incomplete[:incomplete.rfind("/") + 1])
    here, usual = ([*sorted(folder.iterdir())] if folder.is_dir() else [] for folder in (home, Path("recipes")))
    folders = [f"{path}/" for path in here if path.is_dir() and not path.name.startswith(".")]
    files = [str(path) for path in dict.fromkeys((*here, *usual)) if path.suffix in YAML_SUFFIXES]
    return _with_prefix([*files, *folders], incomplete)


def complete_keys(incomplete: str) -> list[str]:
    """Every key that a recipe can have, with the equals sign that follows it; behind that, the words that it may be."""
    from dbrun.recipe.checks.schema_info import all_keys

    if (key := _key_before_equals()) is not None:
        return _with_prefix(_allowed_values(key), incomplete)
    key, equals, value = incomplete.partition("=")
    if not equals:
        found = _with_prefix([f"{key}=" for key in all_keys()], incomplete)
        # of two words bash completes what they have in common, and puts no space behind the equals sign
        return found if len(found) != 1 else [*found, *(found[0] + word for word in _suggested_values(found[0][:-1]))]
    listed = value[:value.rfind(",") + 1]
    return _with_prefix([f"{key}={listed}{word}" for word in _allowed_values(key)], incomplete)


def complete_recipes_and_keys(incomplete: str) -> list[str]:
    """Either of them."""
    return [*complete_recipes(incomplete), *complete_keys(incomplete)]


def complete_stages(incomplete: str) -> list[str]:
    """Every stage that a recipe can have."""
    from dbrun.stages.base import stages as every

    return _with_prefix(every(), incomplete)


def complete_profiles(incomplete: str) -> list[str]:
    """The profiles of the recipe that is named."""
    from dbrun.recipe.text.overlay import merge_files
    from dbrun.recipe.text.tree import MappingNode

    recipe = next((Path(word) for word in _typed_words() if Path(word).suffix in YAML_SUFFIXES), None)
    try:
        found = merge_files(recipe, [])[0].entries.get("profiles") if recipe else None
    except DbrunError:
        return []
    return _with_prefix(found.entries if isinstance(found, MappingNode) else (), incomplete)


def complete_runs(incomplete: str) -> list[str]:
    """The names of the runs on record, then their ids, the newest first."""
    from dbrun.plan.history import newest_run_ids
    from dbrun.store.store import current_store

    ids = newest_run_ids(current_store())
    return _with_prefix([*complete_run_names(incomplete), *ids], incomplete)


def complete_run_names(incomplete: str) -> list[str]:
    """The names of the runs on record."""
    from dbrun.plan.history import newest_run_ids
    from dbrun.store.runs import recipe_name
    from dbrun.store.store import current_store

    return _with_prefix(dict.fromkeys(str(recipe_name(run)) for run in newest_run_ids(current_store())), incomplete)


def _typed_words() -> list[str]:
    """The words on the line so far, as typer has them from the shell."""
    return (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()


def _key_before_equals() -> str | None:
    """The key whose value is typed in bash, which takes what stands on either side of an equals sign for words."""
    at, line = int(os.environ.get("COMP_CWORD") or 0), _typed_words()
    return next((line[i - 1] for i in (at, at - 1) if 0 < i < len(line) and line[i] == "="), None)


def _allowed_values(key: str) -> list[str]:
    """The words that a key's value must be one of; none where it is a number, or text of one's own."""
    from dbrun.recipe.checks.schema_info import literal_values

    return list(dict.fromkeys(word for one in _fields(key) for word in literal_values(one.annotation)))


def _suggested_values(key: str) -> list[str]:
    """The words that a key's value may be, or else the one that it has where nothing is said."""
    usual = [one.default for one in _fields(key) if isinstance(one.default, (bool, int, float, str, type(None)))]
    plain = {None: "null", True: "true", False: "false"}
    words = [plain[one] if one is None or isinstance(one, bool) else str(one) for one in usual]
    return _allowed_values(key) or list(dict.fromkeys(words))


def _fields(key: str) -> list[FieldInfo]:
    """What the models say of a key, in each part that may stand above it."""
    from dbrun.recipe.checks.schema_info import fields_by_key, root, schema_child

    *above, last = key.split(".")
    spot = root()
    for step in above:
        spot = schema_child(spot, step)
    return [fields_by_key(part)[last] for part in spot.parts if last in fields_by_key(part)]


def _with_prefix(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
