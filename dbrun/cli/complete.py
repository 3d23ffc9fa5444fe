"""Shell completion: what the next word of a command line can be."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import DbrunError
from dbrun.naming import YAML_SUFFIXES

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo



def complete_recipes(incomplete: str) -> list[str]:
    """Recipes in the folder of the incomplete word and in recipes/, then folders."""
    home = Path(incomplete[:incomplete.rfind("/") + 1])
    here, usual = _sorted_entries(home), _sorted_entries(Path("recipes"))
    folders = [f"{path}/" for path in here if path.is_dir() and not path.name.startswith(".")]
    files = [str(path) for path in dict.fromkeys((*here, *usual)) if path.suffix in YAML_SUFFIXES]
    return _with_prefix([*files, *folders], incomplete)


def _sorted_entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def complete_keys(incomplete: str) -> list[str]:
    """Keys of a recipe with an equals sign; after the equals sign, the words that the value may be."""
    from dbrun.recipe.checks.schema_info import all_keys

    bash_key = _key_before_equals()
    if bash_key is not None:
        return _with_prefix(_allowed_values(bash_key), incomplete)
    key, equals, value = incomplete.partition("=")
    if equals:
        # The last of several values: `--sweep key=a,b`.
        listed = value[:value.rfind(",") + 1]
        return _with_prefix([f"{key}={listed}{word}" for word in _allowed_values(key)], incomplete)
    matching = _with_prefix([f"{name}=" for name in all_keys()], incomplete)
    if len(matching) == 1:
        # After a single match bash writes a space. With more, it completes what they have in common: `key=`.
        only = matching[0]
        matching += [only + word for word in _suggested_values(only[:-1])]
    return matching


def complete_recipes_and_keys(incomplete: str) -> list[str]:
    """Recipes and folders, then keys of a recipe."""
    return [*complete_recipes(incomplete), *complete_keys(incomplete)]


def complete_bases(incomplete: str) -> list[str]:
    """Bases that `dbrun new` writes recipes for."""
    from dbrun.recipe.starter_bases import starter_bases

    return _with_prefix(starter_bases(), incomplete)


def complete_stages(incomplete: str) -> list[str]:
    """Names of stages."""
    from dbrun.stages.base import stages

    return _with_prefix(stages(), incomplete)


def complete_profiles(incomplete: str) -> list[str]:
    """Names of profiles of the recipe that is named on the command line; none if it cannot be read."""
    from dbrun.recipe.text.overlay import merge_files
    from dbrun.recipe.text.tree import MappingNode

    recipe = next((Path(word) for word in _typed_words() if Path(word).suffix in YAML_SUFFIXES), None)
    if recipe is None:
        return []
    # Merged, not validated: while a command is typed, the recipe may have mistakes elsewhere.
    try:
        profiles = merge_files(recipe, [])[0].entries.get("profiles")
    except DbrunError:
        return []
    if not isinstance(profiles, MappingNode):
        return []
    return _with_prefix(profiles.entries, incomplete)


def complete_runs(incomplete: str) -> list[str]:
    """Names of the runs on record, then their ids, the newest first."""
    from dbrun.plan.history import newest_run_ids
    from dbrun.store.store import current_store

    ids = newest_run_ids(current_store())
    return _with_prefix([*complete_run_names(incomplete), *ids], incomplete)


def complete_run_names(incomplete: str) -> list[str]:
    """Names of the runs on record."""
    from dbrun.plan.history import newest_run_ids
    from dbrun.store.runs import recipe_name
    from dbrun.store.store import current_store

    names = [str(recipe_name(run)) for run in newest_run_ids(current_store())]
    return _with_prefix(dict.fromkeys(names), incomplete)


def _typed_words() -> list[str]:
    """The words of the command line so far, which the shell's completion script puts into the environment."""
    # COMP_WORDS is bash's; the scripts for zsh and fish set the other one.
    return (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()


def _key_before_equals() -> str | None:
    """The key whose value is being typed in bash, else None."""
    # bash splits words at an equals sign: `a=b` is three words, and the cursor is on `=` or on the word after it.
    position, line = int(os.environ.get("COMP_CWORD") or 0), _typed_words()
    return next((line[i - 1] for i in (position, position - 1) if 0 < i < len(line) and line[i] == "="), None)


def _allowed_values(key: str) -> list[str]:
    """The words that a key allows; none if its value is a number or free text."""
    from dbrun.recipe.checks.schema_info import literal_values

    words: list[str] = []
    for field in _fields(key):
        words += literal_values(field.annotation)
    return list(dict.fromkeys(words))


def _suggested_values(key: str) -> list[str]:
    """The words that a key allows, or else its default value as YAML."""
    defaults = [field.default for field in _fields(key)]
    yaml_words = {None: "null", True: "true", False: "false"}
    words = []
    for default in defaults:
        # bool before int: True is an int, too, and str(True) is not YAML's word.
        if default is None or isinstance(default, bool):
            words.append(yaml_words[default])
        elif isinstance(default, (int, float, str)):
            words.append(str(default))
    return _allowed_values(key) or list(dict.fromkeys(words))


def _fields(key: str) -> list[FieldInfo]:
    """The pydantic fields that a dotted key can mean: one for each model that may stand above it."""
    from dbrun.recipe.checks.schema_info import fields_by_key, root, schema_child

    *above, last = key.split(".")
    spot = root()
    for step in above:
        spot = schema_child(spot, step)
    return [fields_by_key(part)[last] for part in spot.parts if last in fields_by_key(part)]


def _with_prefix(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
