"""The recipe, overrides and profiles that the words of a command line name."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.api.request import STDIN_NAME, RecipeRequest
from dbrun.errors import UsageError
from dbrun.input_file import file_exists, open_file
from dbrun.naming import YAML_SUFFIXES
from dbrun.recipe.load import EXPORT_SUFFIX
from dbrun.recipe.text.yaml import MAX_BYTES, decode_recipe

if TYPE_CHECKING:
    from dbrun.store.store import Store


RECIPE_MARKER = re.compile(rb"^(schema:[ \"']*dbrun/|extends:)", re.MULTILINE)
"""A line that recipes have and other YAML files do not."""
STDIN = Path("-")
"""Word for a recipe on standard input."""
MAX_LISTED = 8
"""Recipes that a message lists at most."""


def parse_request(recipe: Path, overrides: Sequence[str] | None, profiles: Sequence[str] | None,
                  store: Path | None = None) -> RecipeRequest:
    """The request for a recipe: a file, the name of one that comes with dbrun, or `-` for that on standard input.

    store: of `--store`, None without it. Raises UsageError for an override without `=`, or nearly such a name.
    """
    from dbrun.recipe.shipped import find_recipe

    for word in overrides or ():
        if "=" not in word:
            raise UsageError(f"found {word!r}; an override is written key=value",
                             fix=f"write {word}=VALUE, such as train.steps=400")
    rest = tuple(overrides or ()), tuple(profiles or ())
    if recipe == STDIN:
        name = Path(STDIN_NAME)
        text = decode_recipe(sys.stdin.buffer.read(MAX_BYTES + 1), name)
        return RecipeRequest(name, *rest, text=text, store=store)
    return RecipeRequest(find_recipe(recipe), *rest, store=store)


def parse_request_from(recipe: Path | None, overrides: Sequence[str] | None, profiles: Sequence[str] | None,
                       from_: str | None, store: Path | None = None) -> tuple[RecipeRequest, str | None]:
    """The request, and the stage of `--from`. Raises UsageError.

    from_: a stage; or an exported file, which then is the recipe, and the returned stage is None; store: of `--store`.
    """
    if from_ is None or not from_.endswith(EXPORT_SUFFIX):
        words = list(overrides or ())
        if recipe is not None and "=" in str(recipe) and not file_exists(recipe):
            # Without a recipe, the first override stands in its place on the command line.
            words.insert(0, str(recipe))
            recipe = None
        return parse_request(recipe or _only_recipe(), words, profiles, store), from_
    words = list(overrides or ())
    if recipe is not None:
        if "=" not in str(recipe):
            raise UsageError(f"found two recipes, {recipe} and --from {from_}", fix="leave one of them out")
        # Without a recipe, the first override stands in its place on the command line.
        words.insert(0, str(recipe))
    return parse_request(Path(from_), words, profiles, store), None


def request_or_default(words: Sequence[str], profiles: Sequence[str] | None, store: Store,
                       store_folder: Path | None = None) -> tuple[RecipeRequest, str | None]:
    """The request that words name; without a recipe in them, the default one and a text that says how it was chosen.

    store_folder: of `--store`. Raises UsageError if there is no default either.
    """
    recipe, overrides = split_words(words)
    if recipe is not None:
        return parse_request(recipe, overrides, profiles, store_folder), None
    default, why = default_request(store)
    request = RecipeRequest(default.recipe, (*default.overrides, *overrides), tuple(profiles or default.profiles),
                            store=store_folder)
    return request, f"{default}: {why}"


def check_stage(name: str) -> None:
    """Raise UsageError if a recipe is named where a stage is expected."""
    if Path(name).suffix in (*YAML_SUFFIXES, EXPORT_SUFFIX):
        from dbrun.stages.base import stages

        raise UsageError(f"found {name} where a stage is expected; it comes before the recipe; "
                         f"the stages are {', '.join(stages())}",
                         fix=f"name the stage first, such as dbrun stage train {name}")


def split_words(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The recipe (None if none is named) and the `key=value` overrides. Raises UsageError for two recipes."""
    named, overrides = split_recipes(words)
    if len(named) > 1:
        raise UsageError(f"one recipe at a time; found {', '.join(map(str, named))}",
                         fix="an override is written key=value, such as train.steps=400")
    recipe = named[0] if named else None
    return recipe, overrides


def split_recipes(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The recipes among words, and the `key=value` overrides."""
    from dbrun.recipe.shipped import find_recipe

    # A file's name may hold an equals sign.
    overrides = [word for word in words if "=" in word and not file_exists(Path(word))]
    return [find_recipe(Path(word)) for word in words if word not in overrides], overrides


def _only_recipe() -> Path:
    """The only recipe in recipes/ and the current folder, told to the user. Raises UsageError for none or several."""
    from dbrun.ui.terminal import print_status

    recipes = [*_find_recipes(Path("recipes")), *_find_recipes(Path())]
    if len(recipes) != 1:
        raise _no_recipe_error(recipes)
    print_status(f"{recipes[0]}: the only recipe here")
    return recipes[0]


def default_request(store: Store) -> tuple[RecipeRequest, str]:
    """The request that a command uses if it names no recipe, and how it was chosen. Raises UsageError.

    The recipe last run here, with the profiles and overrides of that run; else the only file in `recipes/`, or, where
    that has none, the only recipe in the current folder.
    """
    from dbrun.plan.history import last_run

    last = last_run(store)
    if last is not None and file_exists(Path(last.path)):
        return RecipeRequest(Path(last.path), last.overrides, last.profiles), "the recipe last run here"
    recipes = _find_recipes(Path("recipes"))
    if len(recipes) == 1:
        return RecipeRequest(recipes[0]), "the only file in recipes/"
    here = _find_recipes(Path())
    if not recipes and len(here) == 1:
        return RecipeRequest(here[0]), "the only recipe here"
    raise _no_recipe_error(recipes or here)


def _find_recipes(folder: Path) -> list[Path]:
    """The recipes in a folder: in recipes/ every YAML file, elsewhere those with a RECIPE_MARKER."""
    files = sorted(p for p in folder.glob("*.y*ml") if p.suffix in YAML_SUFFIXES)
    # A project's own folder holds other YAML files, too, of CI and linters.
    return [p for p in files if p.parent != Path() or _is_recipe(p)]


def _is_recipe(path: Path) -> bool:
    try:
        with open_file(path) as file:
            # The beginning is enough, and a YAML file of data may be huge.
            return RECIPE_MARKER.search(file.read(65536)) is not None
    except OSError:
        return False


def _no_recipe_error(recipes: Sequence[Path]) -> UsageError:
    """The error if no recipe is named and there is no default. recipes: those that could be named."""
    if not recipes:
        return UsageError("no recipe is named, and there is none here", fix="dbrun new NAME writes one")
    listed = ", ".join(map(str, recipes[:MAX_LISTED]))
    if len(recipes) > MAX_LISTED:
        listed += f" and {len(recipes) - MAX_LISTED} more"
    return UsageError(f"no recipe is named; here are {listed}", fix=f"name one, such as {recipes[0]}")


def meant_command(words: Sequence[str]) -> str | None:
    """The command that a line was meant to be whose first word is no verb; None where that cannot be told."""
    verb, *rest = words
    if Path(verb).suffix in YAML_SUFFIXES:
        return shlex.join(["dbrun", "run", *words])
    # The words of other trainers and tools for the same work.
    if verb in ("train", "start"):
        return shlex.join(["dbrun", "run", *(rest or ["RECIPE"])])
    if verb == "resume":
        # No verb of its own: `run` continues from the last checkpoint.
        return f"{shlex.join(['dbrun', 'run', *(rest or ['RECIPE'])])}; it goes on from the last checkpoint"
    if verb == "help":
        return shlex.join(["dbrun", *rest[:1], "--help"])
    return None
