"""Recipes by name: those of the current folder and of `recipes/` in it, and those that come with dbrun."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import dbrun
from dbrun.errors import UsageError
from dbrun.input_file import file_exists, path_exists
from dbrun.recipe.checks.suggestions import nearest

PROJECT_FOLDERS = (Path(), Path("recipes"))
"""Folders in which `dbrun new NAME` writes NAME.yaml."""


@cache
def shipped_recipes() -> Mapping[str, Path]:
    """Name of a recipe → its file, sorted by name."""
    package = Path(dbrun.__file__).parent
    folder = package / "recipes"
    # in a checkout they lie beside the package, and an installation moves them into it
    if not folder.is_dir():
        folder = package.parent / "recipes"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def named_recipe(name: str, folders: Iterable[Path]) -> Path | None:
    """The file of the recipe of this name: NAME.yaml in the first folder that has it, else dbrun's own; or None."""
    for folder in folders:
        own = folder / f"{name}.yaml"
        if file_exists(own):
            return own
    return shipped_recipes().get(name)


def find_recipe(word: Path) -> Path:
    """The file that a word of the command line means: itself, or the recipe of this name, here or of dbrun's own.

    Raises UsageError for a word that is nearly such a name.
    """
    # a file, also one without an ending, goes before a name
    if word.suffix or len(word.parts) != 1 or path_exists(word):
        return word
    found = named_recipe(word.name, PROJECT_FOLDERS)
    if found is not None:
        return found
    recipes = shipped_recipes()
    close = nearest(word.name, tuple(recipes))
    if close is None:
        return word
    raise UsageError(f"there is no file {word}, and no recipe of this name is here or comes with dbrun; there are "
                     f"{', '.join(recipes)}", fix=f"did you mean {close}?")
