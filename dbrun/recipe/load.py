"""How a recipe file becomes a Recipe: `extends`, profiles, command line, references, types, checks across keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from dbrun.recipe.checks.rules import check_rules
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.text import profiles as profiles_text
from dbrun.recipe.text.overlay import merge_files, parse_overrides
from dbrun.recipe.text.profiles import ProfilesAndEnv
from dbrun.recipe.text.spans import InvalidRecipe, Problem, Span
from dbrun.recipe.text.tree import MappingNode, drop_key, leaves, merge, origins, plain_data

EXPORT_SUFFIX = ".safetensors"
"""The ending of a file that stands for the recipe that made it."""


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe and where its values were written.

    path: the file asked for; origins: dotted key → place of its value; working_dir: the folder in which the command was
    given; profiles: those laid over the recipe; file_texts: what stood in each file read, that one first; of a recipe
    that was rebuilt none.
    """

    recipe: Recipe
    path: Path
    origins: Mapping[str, Span]
    working_dir: Path
    profiles: tuple[str, ...] = ()
    file_texts: Mapping[Path, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files read, the one asked for first."""
        return tuple(self.file_texts) or (self.path,)

    def folder_of(self, key: str) -> Path:
        """The folder from which the path in a dotted key is meant: that of the file in which it is written.

        For a value of the command line it is the folder in which the command was given.
        """
        place = self.origins.get(key)
        if place is None:
            return self.path.parent
        return place.file.parent if place.file else self.working_dir


def load_recipe(path: Path, overrides: Sequence[str] = (), profiles: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe in a file under some of its profiles, and over these `key=value` overrides.

    An exported .safetensors stands for the recipe that made it.

    Raises InvalidRecipe with all that is wrong, in profiles that are not asked for, too.
    """
    loaded, wrong = load_with_problems(path, overrides, profiles)
    if wrong:
        raise InvalidRecipe(wrong)
    return loaded


def load_with_problems(path: Path, overrides: Sequence[str] = (),
                       profiles: Sequence[str] = ()) -> tuple[LoadedRecipe, tuple[Problem, ...]]:
    """As `load_recipe`, with what is wrong in it as data: the rest can be judged with what its paths point at.

    Raises InvalidRecipe where no more can be told than that.
    """
    path, wrong = path.absolute(), list[Problem]()
    whole, texts = _rebuild_from_export(path) if path.suffix == EXPORT_SUFFIX else merge_files(path, wrong)
    data, beside = profiles_text.split_file_keys(whole, wrong)
    laid = merge(beside.apply_profiles(profiles, data, wrong), parse_overrides(overrides, wrong))
    if path.suffix == EXPORT_SUFFIX:
        from dbrun.recipe.text.from_export import check_paths_known

        check_paths_known(laid, path)
    laid, recipe = _resolve_and_validate(laid, beside, wrong)
    aside = [problem for name in beside.profiles if name not in profiles
             for problem in _profile_problems(beside, name, data)]
    if recipe is None:
        raise InvalidRecipe([*wrong, *aside])
    loaded = LoadedRecipe(recipe, path, dict(origins(laid)), Path.cwd(), tuple(profiles), texts)
    return loaded, (*(wrong or _rule_problems(recipe, laid)), *aside)


def _resolve_and_validate(data: MappingNode, beside: ProfilesAndEnv,
                          wrong: list[Problem]) -> tuple[MappingNode, Recipe | None]:
    """The mapping without references, and the recipe, without what is wrong in it, which is noted.

    None where something could not be read, or is missing. wrong: what is known already; where that is anything, what is
    missing may stand there.
    """
    part, unknown = bool(wrong), {problem.span for problem in wrong}
    try:
        data = _resolve(data, beside)
    except InvalidRecipe as error:
        wrong += error.problems
        # what stands for something unknown is not judged by its type
        unknown |= {leaf.span for _, leaf in leaves(data) if "${" in leaf.value}
    wrong += profiles_text.find_hub_tokens(data)
    whole = not wrong
    try:
        recipe = _validate(data, part=part)
    except InvalidRecipe as error:
        wrong += [problem for problem in error.problems if problem.span not in unknown]
        return data, _without_wrong_keys(data, error.problems) if whole else None
    return data, recipe if whole else None


def _without_wrong_keys(data: MappingNode, problems: Iterable[Problem]) -> Recipe | None:
    """The recipe without the keys that are wrong, if it can be without: else more would only follow from these."""
    for key in {problem.key for problem in problems}:
        data = drop_key(data, key)
    try:
        recipe = _validate(data)
    except InvalidRecipe:
        return None
    return None if check_rules(recipe) else recipe


def _rebuild_from_export(path: Path) -> tuple[MappingNode, dict[Path, str]]:
    from dbrun.recipe.text.from_export import rebuild_recipe

    return rebuild_recipe(path), {}


def _resolve(data: MappingNode, beside: ProfilesAndEnv) -> MappingNode:
    if not any("${" in leaf.value for _, leaf in leaves(data)):
        return data
    from dbrun.recipe.text.references import resolve_references

    return resolve_references(data, beside)


def _profile_problems(beside: ProfilesAndEnv, name: str, data: MappingNode) -> Iterator[Problem]:
    """What is wrong in a profile by itself; what is missing elsewhere may come from another profile."""
    profile = beside.profiles[name]
    inside = {*profiles_text.spans_in(profile)} - profiles_text.env_reference_spans(profile)
    try:
        _validate(_resolve(merge(data, profile), beside))
    except InvalidRecipe as error:
        yield from (problem for problem in error.problems if problem.span in inside)


def _validate(data: MappingNode, *, part: bool = False) -> Recipe:
    """The recipe; part: of one that was read in part no missing key is told. Raises InvalidRecipe."""
    try:
        return Recipe.model_validate(plain_data(data), by_alias=True, by_name=False)
    except ValidationError as error:
        from dbrun.recipe.checks.messages import problems_of

        raise InvalidRecipe(problems_of(error, data, part=part)) from None


def _rule_problems(recipe: Recipe, data: MappingNode) -> Iterator[Problem]:
    if findings := check_rules(recipe):
        from dbrun.recipe.checks.messages import span_of

        yield from (Problem(span_of(key, data), key, message, fix) for key, message, fix in findings)
