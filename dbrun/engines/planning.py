"""Plans of many runs in one process: recipes, rows of a table and axes of a sweep become a graph of jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from pathlib import Path

from dbrun.api.request import RecipeRequest, read_request
from dbrun.api.sweep_axes import parse_axes, run_name
from dbrun.engines.base import DEFAULT_OUTPUTS
from dbrun.engines.job_graph import JobGraph, JobGraphBuilder
from dbrun.engines.rows import Row, raise_if_any
from dbrun.errors import DbrunError, RecipeError, UsageError, combine_errors
from dbrun.events import Note
from dbrun.plan.planner import ALL_STAGES, make_scope, plan_scope
from dbrun.plan.preflight import preflight_error
from dbrun.recipe.load import read_template
from dbrun.recipe.text.spans import InvalidRecipe, Problem
from dbrun.store.store import Store

MAX_RUNS = 200_000
"""Runs of one plan at most; more is most likely a mistake in the values."""


@dataclass(frozen=True)
class PlannedJobs:
    """The jobs of many runs.

    notes: each note about them → the number of runs that it is about; stops: message of each error with which runs
    would stop before their first stage → the error and the names of these runs.
    """

    graph: JobGraph
    store: Store
    notes: Mapping[Note, int] = field(default_factory=dict)
    stops: Mapping[str, tuple[DbrunError, list[str]]] = field(default_factory=dict)

    @property
    def stop(self) -> DbrunError | None:
        """One error for all reasons why runs would stop; None if all can begin."""
        if not self.stops:
            return None
        parts: list[tuple[DbrunError, str]] = []
        for error, names in self.stops.values():
            which = names[0] if len(names) == 1 else f"{len(names):,} of {self.graph.runs:,} runs"
            parts.append((error, which))
        return combine_errors(parts)


@dataclass(frozen=True)
class _RunRequest:
    """A run that was asked for. row: of the table, None without one."""

    request: RecipeRequest
    row: Row | None

    def problems(self, error: DbrunError) -> Iterator[Problem]:
        """The problems of an error, at their place in the recipe or in the table."""
        if self.row is not None:
            yield from self.row.located(error)
        elif isinstance(error, InvalidRecipe):
            yield from error.problems
        else:
            yield Problem(None, "", f"{self.request}: {error.message}", error.fix)


def plan_jobs(requests: Sequence[RecipeRequest], *, rows: Sequence[Row] | None = None, sweeps: Sequence[str] = (),
              outputs: Path = DEFAULT_OUTPUTS, elsewhere: bool = True) -> PlannedJobs:
    """The jobs of recipes. Raises InvalidRecipe with all that is wrong with any run, before any of them is planned.

    requests: of one store; rows: run each recipe with each row's overrides, None without a table; sweeps:
    `key=value,value` words, each combination is a run; outputs: folder for delivered folders; elsewhere: whether other
    machines run the jobs, see `Scope`.
    """
    if any(request.text is not None for request in requests):
        raise UsageError("a job reads its recipe from a file, and standard input is none",
                         fix="write the recipe into a file")
    asked = list(_expand(requests, rows, sweeps))
    store = requests[0].open_store()
    builder = JobGraphBuilder(outputs)
    problems: list[Problem] = []
    first_named: dict[str, _RunRequest] = {}
    notes: dict[Note, int] = {}
    stops: dict[str, tuple[DbrunError, list[str]]] = {}
    with store.planning_many():
        for run in asked:
            try:
                loaded, resolved = read_request(run.request, store)
                name = loaded.recipe.name
                if first_named.setdefault(name, run) is not run:
                    raise _same_name(name, first_named[name])
                if problems:
                    # nothing will be planned any more; what else is wrong is still told
                    continue
                scope = make_scope(loaded.recipe, resolved, store, ALL_STAGES, None, elsewhere=elsewhere)
                plan = plan_scope(scope)
            except RecipeError as error:
                problems += run.problems(error)
                continue
            for note in dict.fromkeys(resolved.notes):
                notes[note] = notes.get(note, 0) + 1
            stop = preflight_error(plan, str(run.request), store)
            if stop is not None:
                stops.setdefault(stop.message, (stop, []))[1].append(name)
            builder.add(replace(run.request, template=None), scope, plan)
    raise_if_any(problems)
    return PlannedJobs(builder.finish(), store, notes, stops)


def _expand(requests: Sequence[RecipeRequest], rows: Sequence[Row] | None,
            sweeps: Sequence[str]) -> Iterator[_RunRequest]:
    """Each recipe with each row and each combination of swept values."""
    axes = list(parse_axes(sweeps))
    count = len(requests) * (1 if rows is None else len(rows)) * prod(map(len, axes))
    if count > MAX_RUNS:
        raise UsageError(f"found {count:,} runs, allowed: at most {MAX_RUNS:,}", fix="plan them in parts")
    for request in requests:
        template = read_template(request.recipe, request.profiles)
        request = replace(request, template=template)
        for row in rows if rows is not None else (None,):
            for values in product(*axes):
                yield _RunRequest(_with_values(request, row, values), row)


def _with_values(request: RecipeRequest, row: Row | None, swept: Sequence[tuple[str, str]]) -> RecipeRequest:
    """The request with the values of a row and a combination of a sweep, and a name that tells it from others."""
    words = row.words if row is not None else ()
    varied = (*(row.values if row is not None else ()), *swept)
    overrides = (*request.overrides, *words, *("=".join(pair) for pair in swept))
    if any(key == "name" for key, _ in swept) or not varied:
        return replace(request, overrides=overrides)
    given = dict(row.values).get("name") if row is not None else None
    if given is not None:
        if not swept:
            return replace(request, overrides=overrides)
        name = run_name(given, swept)
    else:
        name = run_name(_own_name(request), varied)
    return replace(request, overrides=(*overrides, f"name={name}"))


def _own_name(request: RecipeRequest) -> str:
    """Name of the recipe without rows and sweeps; its file's where it gives none."""
    for word in reversed(request.overrides):
        key, _, value = word.partition("=")
        if key.strip() == "name":
            return value.strip()
    written = request.template.name if request.template is not None else None
    return written or request.recipe.stem


def _same_name(name: str, first: _RunRequest) -> RecipeError:
    where = f"{first.row.span} has it too" if first.row is not None else f"{first.request} has it too"
    return RecipeError(f"found the name {name} a second time: {where}, and both would be delivered to one folder",
                       fix="give each run a `name` of its own")
