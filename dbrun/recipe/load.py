"""Loader of recipes, from file to `Recipe`: `extends`, profiles, overrides, references, types, rules between keys."""

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
from dbrun.recipe.text.tree import MappingNode, ScalarNode, drop_key, leaves, merge, origins, plain_data

MAX_WRONG_KEYS = 100
"""Wrong keys at most, without which the rest of a recipe is still checked."""
EXPORT_SUFFIX = ".safetensors"
"""Ending of an exported file, which can be loaded in place of the recipe that made it."""


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe and where its values were written.

    path: the loaded file; origins: dotted key → span of its value; working_dir: current folder at loading; profiles:
    names of those merged over the recipe; file_texts: path → text of each file read, the loaded one first; empty for a
    recipe rebuilt from an export; is_text: whether it was given as a text, which no file at `path` holds.
    """

    recipe: Recipe
    path: Path
    origins: Mapping[str, Span]
    working_dir: Path
    profiles: tuple[str, ...] = ()
    file_texts: Mapping[Path, str] = field(default_factory=dict)
    is_text: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """All files read, the loaded one first."""
        return tuple(self.file_texts) or (self.path,)

    def folder_of(self, key: str) -> Path:
        """Folder that a relative path at a dotted key starts from: that of the file in which it is written.

        For a value of the command line it is the current folder at loading.
        """
        span = self.origins.get(key)
        if span is None:
            return self.path.parent
        if span.file is None:
            return self.working_dir
        return span.file.parent


def load_recipe(path: Path, overrides: Sequence[str] = (), profiles: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe in a file, with some of its profiles merged over it, then these `key=value` overrides.

    path may also be an exported .safetensors file, which stores the recipe that made it.

    Raises InvalidRecipe with all problems, also those in profiles that are not used.
    """
    loaded, problems = load_with_problems(path, overrides, profiles)
    if problems:
        raise InvalidRecipe(problems)
    return loaded


def load_with_problems(path: Path, overrides: Sequence[str] = (), profiles: Sequence[str] = (), *,
                       text: str | None = None,
                       folder: Path | None = None) -> tuple[LoadedRecipe, tuple[Problem, ...]]:
    """As `load_recipe`, but returns the problems where the rest of the recipe is usable without the wrong keys.

    text: the recipe's own text where it is in no file; path then only names it, in the folder that its paths start at.
    folder: where paths of overrides start, the current one by default.

    The caller can then also check what the recipe's paths point at, and report everything at once. Raises InvalidRecipe
    where the rest is not usable.
    """
    return read_template(path, profiles, text=text).load(overrides, folder=folder)


@dataclass(frozen=True)
class RecipeTemplate:
    """A recipe file that was read once, to be loaded with several sets of overrides.

    data: the merged files with the profiles over them; problems, profile_problems: what is wrong with the files, and
    with the profiles that are not used; the rest as in `LoadedRecipe`.
    """

    path: Path
    data: MappingNode
    beside: ProfilesAndEnv
    profiles: tuple[str, ...]
    file_texts: Mapping[Path, str]
    is_text: bool
    problems: tuple[Problem, ...]
    profile_problems: tuple[Problem, ...]

    @property
    def name(self) -> str | None:
        """The recipe's name as it is written; None where the files give none."""
        node = self.data.entries.get("name")
        return node.value if isinstance(node, ScalarNode) else None

    def load(self, overrides: Sequence[str], *,
             folder: Path | None = None) -> tuple[LoadedRecipe, tuple[Problem, ...]]:
        """The recipe with `key=value` words over it, and its problems; see `load_with_problems`."""
        problems = list(self.problems)
        merged = merge(self.data, parse_overrides(overrides, problems))
        if self.path.suffix == EXPORT_SUFFIX:
            from dbrun.recipe.text.from_export import check_paths_known

            # only now, since overrides are how the user gives the missing paths
            check_paths_known(merged, self.path)

        resolved, recipe = _resolve_and_validate(merged, self.beside, problems)
        if recipe is None:
            raise InvalidRecipe([*problems, *self.profile_problems])
        recipe = recipe.shared_by(recipe.launch.processes)
        # rules are checked only on a recipe without wrong keys: other findings would follow from what was left out
        if not problems:
            problems += _rule_problems(recipe, resolved)
        working_dir = Path.cwd() if folder is None else folder.absolute()
        loaded = LoadedRecipe(recipe, self.path, dict(origins(resolved)), working_dir, self.profiles, self.file_texts,
                              self.is_text)
        return loaded, (*problems, *self.profile_problems)


def read_template(path: Path, profiles: Sequence[str] = (), *, text: str | None = None) -> RecipeTemplate:
    """The recipe file at path with some of its profiles, to be loaded with overrides. text: as `load_with_problems`.

    Raises InvalidRecipe where the file cannot be read.
    """
    path = path.absolute()
    problems: list[Problem] = []
    if path.suffix == EXPORT_SUFFIX:
        whole, texts = _rebuild_from_export(path)
    else:
        whole, texts = merge_files(path, problems, text)
    data, beside = profiles_text.split_file_keys(whole, problems)
    with_profiles = beside.apply_profiles(profiles, data, problems)
    profile_problems: list[Problem] = []
    for name in beside.profiles:
        if name not in profiles:
            profile_problems += _profile_problems(beside, name, data)
    return RecipeTemplate(path, with_profiles, beside, tuple(profiles), texts, text is not None, tuple(problems),
                          tuple(profile_problems))


def _resolve_and_validate(data: MappingNode, beside: ProfilesAndEnv,
                          problems: list[Problem]) -> tuple[MappingNode, Recipe | None]:
    """The mapping with references resolved, and the recipe without its wrong keys; None where it is not usable.

    problems: those found before; new ones are added.
    """
    # with a problem before, a key that seems to be missing may be in what could not be read
    part, judged = bool(problems), {problem.span for problem in problems}
    try:
        data = _resolve(data, beside)
    except InvalidRecipe as error:
        problems += error.problems
        # the type of an unresolved reference is unknown, so "expected a number" would be wrong
        judged |= {leaf.span for _, leaf in leaves(data) if "${" in leaf.value}
    problems += profiles_text.find_hub_tokens(data)
    usable = not problems
    try:
        recipe = _validate(data, part=part)
    except InvalidRecipe as error:
        problems += [problem for problem in error.problems if problem.span not in judged]
        if not usable:
            return data, None
        return data, _without_wrong_keys(data, error.problems)
    if not usable:
        return data, None
    return data, recipe


def _without_wrong_keys(data: MappingNode, problems: Iterable[Problem]) -> Recipe | None:
    """The recipe without its wrong keys; None where it is not valid without them, or where there are too many.

    Further checks of an invalid recipe would report only consequences of the first problems.
    """
    wrong = {problem.key for problem in problems}
    # each is taken out of a copy; with so many, other findings would be of no use
    if len(wrong) > MAX_WRONG_KEYS:
        return None
    for key in wrong:
        data = drop_key(data, key)
    try:
        recipe = _validate(data)
    except InvalidRecipe:
        return None
    if check_rules(recipe):
        return None
    return recipe


# The imports inside the functions below are for recipes that need them: OmegaConf, messages and the reader of exports
# are a large share of the time of a start.
def _rebuild_from_export(path: Path) -> tuple[MappingNode, dict[Path, str]]:
    from dbrun.recipe.text.from_export import rebuild_recipe

    return rebuild_recipe(path), {}


def _resolve(data: MappingNode, beside: ProfilesAndEnv) -> MappingNode:
    if not any("${" in leaf.value for _, leaf in leaves(data)):
        return data
    from dbrun.recipe.text.references import resolve_references

    return resolve_references(data, beside)


def _profile_problems(beside: ProfilesAndEnv, name: str, data: MappingNode) -> Iterator[Problem]:
    """Problems inside an unused profile; a key missing elsewhere may come from another profile."""
    profile = beside.profiles[name]
    # a variable of the environment may be set only where the profile is used
    inside = {*profiles_text.spans_in(profile)} - profiles_text.env_reference_spans(profile)
    try:
        _validate(_resolve(merge(data, profile), beside))
    except InvalidRecipe as error:
        for problem in error.problems:
            if problem.span in inside:
                yield problem


def _validate(data: MappingNode, *, part: bool = False) -> Recipe:
    """The validated recipe. part: do not report missing keys. Raises InvalidRecipe."""
    try:
        return Recipe.model_validate(plain_data(data), by_alias=True, by_name=False)
    except ValidationError as error:
        from dbrun.recipe.checks.messages import problems_of

        raise InvalidRecipe(problems_of(error, data, part=part)) from None


def _rule_problems(recipe: Recipe, data: MappingNode) -> Iterator[Problem]:
    findings = check_rules(recipe)
    if not findings:
        return
    from dbrun.recipe.checks.messages import span_of

    for key, message, fix in findings:
        yield Problem(span_of(key, data), key, message, fix)
