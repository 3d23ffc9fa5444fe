"""The recipe, overrides and profiles that the words of a command line name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.cli.complete import YAML_SUFFIXES
from dbrun.errors import UsageError
from dbrun.recipe.load import EXPORT_SUFFIX

if TYPE_CHECKING:
    from dbrun.store.store import Store


RECIPE_MARKER = re.compile(rb"^(schema:[ \"']*dbrun/|extends:)", re.MULTILINE)
"""What stands in the file of a recipe and of hardly anything else."""
MAX_LISTED = 8
"""Recipes that are named where one has to be chosen."""


@dataclass(frozen=True)
class RecipeRequest:
    """A recipe as a command names it, with the profiles and the `key=value` words to lay over it."""

    recipe: Path
    overrides: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join(self.words)

    @property
    def words(self) -> tuple[str, ...]:
        """As they stand behind `dbrun run`."""
        profiles = tuple(word for name in self.profiles for word in ("--profile", name))
        return (str(self.recipe), *profiles, *self.overrides)


def parse_request(recipe: Path, overrides: Sequence[str] | None, profiles: Sequence[str] | None) -> RecipeRequest:
    """The recipe with the words behind it. Raises UsageError for a word that is no override."""
    for word in overrides or ():
        if "=" not in word:
            raise UsageError(f"found {word!r}; an override is written key=value", fix="such as train.steps=400")
    return RecipeRequest(recipe, tuple(overrides or ()), tuple(profiles or ()))


def parse_request_from(recipe: Path | None, overrides: Sequence[str] | None, profiles: Sequence[str] | None,
                       from_: str | None) -> tuple[RecipeRequest, str | None]:
    """As `parse_request`, and the stage that `--from` names; an exported file behind it is the recipe.
    Raises UsageError."""
    if from_ is None or not from_.endswith(EXPORT_SUFFIX):
        if recipe is None or ("=" in str(recipe) and not recipe.is_file()):
            raise _no_recipe_error([*_find_recipes(Path("recipes")), *_find_recipes(Path())])
        return parse_request(recipe, overrides, profiles), from_
    words = [] if recipe is None else [str(recipe)]
    if recipe is not None and "=" not in words[0]:
        raise UsageError(f"found two recipes, {recipe} and --from {from_}", fix="leave one of them out")
    return parse_request(Path(from_), [*words, *(overrides or ())], profiles), None


def request_or_default(words: Sequence[str], profiles: Sequence[str] | None,
                       store: Store) -> tuple[RecipeRequest, str | None]:
    """The recipe that words name, or else the one at hand and how it was chosen. Raises UsageError."""
    recipe, overrides = split_words(words)
    if recipe is not None:
        return parse_request(recipe, overrides, profiles), None
    found, why = default_request(store)
    request = RecipeRequest(found.recipe, (*found.overrides, *overrides), tuple(profiles or found.profiles))
    return request, f"{found}: {why}"


def check_stage(name: str) -> None:
    """Raise UsageError where a recipe stands in the place of a stage."""
    if Path(name).suffix in (*YAML_SUFFIXES, EXPORT_SUFFIX):
        from dbrun.stages.base import stages

        raise UsageError(f"found {name} where a stage stands, which goes before the recipe; "
                         f"the stages are {', '.join(stages())}", fix=f"name one, such as train {name}")


def split_words(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The recipe, if one is named, and the `key=value` overrides.

    Raises UsageError for more than one recipe or a word that is neither.
    """
    named, overrides = split_recipes(words)
    if len(named) > 1:
        raise UsageError(f"one recipe at a time; found {', '.join(map(str, named))}",
                         fix="an override is written key=value, such as train.steps=400")
    return (named[0] if named else None), overrides


def split_recipes(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The recipes among words, and the `key=value` overrides."""
    overrides = [word for word in words if "=" in word and not Path(word).is_file()]
    return [Path(word) for word in words if word not in overrides], overrides


def default_request(store: Store) -> tuple[RecipeRequest, str]:
    """The recipe meant where none is named, and how it was chosen.

    The recipe last run here, with the profiles and overrides that it was run with; else the only file in `recipes/`.
    """
    from dbrun.plan.history import last_run

    last = last_run(store)
    if last is not None and Path(last.path).is_file():
        return RecipeRequest(Path(last.path), last.overrides, last.profiles), "the recipe last run here"
    found = _find_recipes(Path("recipes"))
    if len(found) == 1:
        return RecipeRequest(found[0]), "the only file in recipes/"
    raise _no_recipe_error(found or _find_recipes(Path()))


def _find_recipes(folder: Path) -> list[Path]:
    """The YAML files of a folder that say that they are recipes; in recipes/ all of them."""
    found = sorted(p for p in folder.glob("*.y*ml") if p.suffix in YAML_SUFFIXES)
    return [p for p in found if p.parent != Path() or _is_recipe(p)]


def _is_recipe(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return RECIPE_MARKER.search(file.read(65536)) is not None
    except OSError:
        return False


def _no_recipe_error(found: Sequence[Path]) -> UsageError:
    """What to do where no recipe is named and none is meant."""
    if not found:
        return UsageError("no recipe is named, and there is none here", fix="dbrun new NAME writes one")
    more = f" and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
    return UsageError(f"no recipe is named; here are {', '.join(map(str, found[:MAX_LISTED]))}{more}",
                      fix=f"name one, such as {found[0]}")
