"""What changes nothing: the plan of a recipe, a check of it, and the runs on record."""

from __future__ import annotations

from collections.abc import Sequence

from dbrun.api.request import FolderLike, RecipeLike, RecipeRequest, make_request, read_request
from dbrun.api.results import Run, Validation
from dbrun.errors import RecipeError
from dbrun.plan.planner import Plan, make_plan
from dbrun.plan.selection import Selection
from dbrun.recipe.text.spans import InvalidRecipe, Problem
from dbrun.resolve.sources import resolve_sources
from dbrun.store.runs import list_runs
from dbrun.store.store import current_store


def plan(recipe: RecipeLike, *overrides: str, profiles: Sequence[str] = (), folder: FolderLike | None = None,
         store: FolderLike | None = None, until: str | None = None, from_: str | None = None, only: str | None = None,
         force: Sequence[str] = ()) -> Plan:
    """Plan of a recipe: what `run` with the same arguments would do, and why. Raises RecipeError.

    The Hub is not asked: a base whose commit is not known yet is planned as to be fetched.
    """
    request = make_request(recipe, overrides, profiles, folder, store)
    root = request.open_store()
    loaded, resolved = read_request(request, root)
    return make_plan(loaded.recipe, resolved, root, Selection(until, from_, only, tuple(force)))


def validate(recipe: RecipeLike, *overrides: str, profiles: Sequence[str] = (), folder: FolderLike | None = None,
             store: FolderLike | None = None, alone: bool = False) -> Validation:
    """Check of a recipe and what it points at; all that is wrong is in the result, nothing is raised for it.

    alone: do not look at the base and the pictures.
    """
    try:
        request = make_request(recipe, overrides, profiles, folder, store)
    except RecipeError as error:
        return Validation(None, (Problem(None, "", error.message, error.fix),))
    return check_request(request, alone=alone)


def check_request(request: RecipeRequest, *, alone: bool) -> Validation:
    """Check of a request, see `validate`."""
    usable = None
    try:
        loaded, wrong = request.load_with_problems()
        usable = loaded.recipe
        if alone:
            return Validation(usable, tuple(wrong), not_checked=("its base", "its pictures"))
        resolved = resolve_sources(loaded, request.open_store(), False, wrong)
    except RecipeError as error:
        if isinstance(error, InvalidRecipe):
            problems = error.problems
        else:
            problems = (Problem(None, "", error.message, error.fix),)
        # A data set that `run` would fetch is not a mistake of the recipe.
        not_fetched = tuple(f"`{problem.key}`" for problem in problems if problem.fixed_by_fetch)
        mistakes = tuple(problem for problem in problems if not problem.fixed_by_fetch)
        return Validation(usable, mistakes, not_checked=not_fetched)
    warnings = tuple(note for note in resolved.notes if note.level == "warning")
    # The base is on the Hub and was never fetched: its configuration could not be read.
    unseen = ("its base",) if resolved.sources.base.folder is None else ()
    return Validation(usable, (), warnings, unseen)


def runs(name: str | None = None, *, store: FolderLike | None = None) -> list[Run]:
    """The runs on record, the newest first. name: only those of this name."""
    return [Run.on_record(record) for record in list_runs(current_store(store)) if name in (None, record.name)]
