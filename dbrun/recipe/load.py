"""How a recipe file becomes a Recipe: `extends`, profiles, command line, references, types, checks across keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from dbrun.recipe.checks.rules import check
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.text import profiles as profiles_text
from dbrun.recipe.text.overlay import from_command_line, from_files
from dbrun.recipe.text.profiles import Asides
from dbrun.recipe.text.spans import Place, Problem, Problems
from dbrun.recipe.text.tree import Table, leaves, merge, origins, plain_data, without

EXPORTED = ".safetensors"
"""The ending of a file that stands for the recipe that made it."""


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe and where its values were written.

    path: the file asked for; origins: dotted key → place of its value; here: the folder in which the command was
    given; profiles: those laid over the recipe; texts: what stood in each file read, that one first; of a recipe that
    was rebuilt none.
    """

    recipe: Recipe
    path: Path
    origins: Mapping[str, Place]
    here: Path
    profiles: tuple[str, ...] = ()
    texts: Mapping[Path, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files read, the one asked for first."""
        return tuple(self.texts) or (self.path,)

    def folder_of(self, key: str) -> Path:
        """The folder from which the path in a dotted key is meant: that of the file in which it is written.

        For a value of the command line it is the folder in which the command was given.
        """
        place = self.origins.get(key)
        if place is None:
            return self.path.parent
        return place.file.parent if place.file else self.here


def load_recipe(path: Path, overrides: Sequence[str] = (), profiles: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe in a file under some of its profiles, and over these `key=value` overrides.

    An exported .safetensors stands for the recipe that made it.

    Raises Problems with all that is wrong, in profiles that are not asked for, too.
    """
    loaded, wrong = read_recipe(path, overrides, profiles)
    if wrong:
        raise Problems(wrong)
    return loaded


def read_recipe(path: Path, overrides: Sequence[str] = (),
                profiles: Sequence[str] = ()) -> tuple[LoadedRecipe, tuple[Problem, ...]]:
    """As `load_recipe`, with what is wrong in it as data: the rest can be judged with what its paths point at.

    Raises Problems where no more can be told than that.
    """
    path, wrong = path.absolute(), list[Problem]()
    whole, texts = _exported(path) if path.suffix == EXPORTED else from_files(path, wrong)
    data, beside = profiles_text.take(whole, wrong)
    laid = merge(beside.chosen(profiles, data, wrong), from_command_line(overrides, wrong))
    if path.suffix == EXPORTED:
        from dbrun.recipe.text.from_export import check_places

        check_places(laid, path)
    laid, recipe = _understood(laid, beside, wrong)
    aside = [problem for name in beside.profiles if name not in profiles
             for problem in _wrong_inside(beside, name, data)]
    if recipe is None:
        raise Problems([*wrong, *aside])
    loaded = LoadedRecipe(recipe, path, dict(origins(laid)), Path.cwd(), tuple(profiles), texts)
    return loaded, (*(wrong or _disagreements(recipe, laid)), *aside)


def _understood(data: Table, beside: Asides, wrong: list[Problem]) -> tuple[Table, Recipe | None]:
    """The mapping without references, and the recipe, without what is wrong in it, which is noted.

    None where something could not be read, or is missing. wrong: what is known already; where that is anything, what is
    missing may stand there.
    """
    part, unknown = bool(wrong), {problem.place for problem in wrong}
    try:
        data = _resolved(data, beside)
    except Problems as error:
        wrong += error.problems
        # what stands for something unknown is not judged by its type
        unknown |= {leaf.place for _, leaf in leaves(data) if "${" in leaf.value}
    wrong += profiles_text.tokens(data)
    whole = not wrong
    try:
        recipe = _typed(data, part=part)
    except Problems as error:
        wrong += [problem for problem in error.problems if problem.place not in unknown]
        return data, _rest(data, error.problems) if whole else None
    return data, recipe if whole else None


def _rest(data: Table, problems: Iterable[Problem]) -> Recipe | None:
    """The recipe without the keys that are wrong, if it can be without: else more would only follow from these."""
    for key in {problem.key for problem in problems}:
        data = without(data, key)
    try:
        recipe = _typed(data)
    except Problems:
        return None
    return None if check(recipe) else recipe


def _exported(path: Path) -> tuple[Table, dict[Path, str]]:
    from dbrun.recipe.text.from_export import rebuilt

    return rebuilt(path), {}


def _resolved(data: Table, beside: Asides) -> Table:
    if not any("${" in leaf.value for _, leaf in leaves(data)):
        return data
    from dbrun.recipe.text.references import resolve

    return resolve(data, beside)


def _wrong_inside(beside: Asides, name: str, data: Table) -> Iterator[Problem]:
    """What is wrong in a profile by itself; what is missing elsewhere may come from another profile."""
    profile = beside.profiles[name]
    inside = {*profiles_text.places(profile)} - profiles_text.reads_environment(profile)
    try:
        _typed(_resolved(merge(data, profile), beside))
    except Problems as error:
        yield from (problem for problem in error.problems if problem.place in inside)


def _typed(data: Table, *, part: bool = False) -> Recipe:
    """The recipe; part: of one that was read in part no missing key is told. Raises Problems."""
    try:
        return Recipe.model_validate(plain_data(data), by_alias=True, by_name=False)
    except ValidationError as error:
        from dbrun.recipe.checks.messages import translate

        raise Problems(translate(error, data, part=part)) from None


def _disagreements(recipe: Recipe, data: Table) -> Iterator[Problem]:
    if findings := check(recipe):
        from dbrun.recipe.checks.messages import place_of

        yield from (Problem(place_of(key, data), key, message, fix) for key, message, fix in findings)
