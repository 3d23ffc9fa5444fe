"""How a recipe file becomes a Recipe: `extends`, command line, references, types, and checks across keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dbrun.recipe.checks import check
from dbrun.recipe.layers import from_command_line, from_files
from dbrun.recipe.model import Recipe
from dbrun.recipe.nodes import Table, leaves, merge, origins, plain_data
from dbrun.recipe.places import Place, Problem, Problems


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe and where its values were written.

    path: the file asked for; files: all files read, it first; origins: dotted key → place of its value;
    here: the folder in which the command was given.
    """

    recipe: Recipe
    path: Path
    files: tuple[Path, ...]
    origins: Mapping[str, Place]
    here: Path

    def folder_of(self, key: str) -> Path:
        """The folder from which the path in a dotted key is meant: that of the file in which it is written.

        For a value of the command line it is the folder in which the command was given.
        """
        place = self.origins.get(key)
        if place is None:
            return self.path.parent
        return place.file.parent if place.file else self.here


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe in a file under `key=value` overrides; raises Problems with all that is wrong."""
    path = path.absolute()
    data, files = from_files(path)
    if overrides:
        data = merge(data, from_command_line(overrides))
    if any("${" in leaf.value for _, leaf in leaves(data)):
        from dbrun.recipe.references import resolve

        data = resolve(data)
    return LoadedRecipe(_validated(data), path, files, dict(origins(data)), Path.cwd())


def _validated(data: Table) -> Recipe:
    try:
        recipe = Recipe.model_validate(plain_data(data), by_alias=True, by_name=False)
    except ValidationError as error:
        from dbrun.recipe.complaints import translate

        raise Problems(translate(error, data)) from None
    if findings := check(recipe):
        from dbrun.recipe.complaints import place_of

        raise Problems(Problem(place_of(key, data), key, message, fix) for key, message, fix in findings)
    return recipe
