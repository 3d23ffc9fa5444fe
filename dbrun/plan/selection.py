"""Selection of stages by --until, --from, --only and --force: which are planned, may run, must run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from dbrun.errors import UsageError
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import Stage


@dataclass(frozen=True)
class Selection:
    """Options of a command that select stages, by name.

    until: this stage and those it needs; from_: this stage and those that follow, the rest must be cached; only: the
    same as both with one name; force: run these even if they are cached.
    """

    until: str | None = None
    from_: str | None = None
    only: str | None = None
    force: tuple[str, ...] = ()


@dataclass(frozen=True)
class SelectedStages:
    """Stages that a command plans, in order of execution.

    needs: stage → stages that it needs; runnable: those that may run; forced: those that run even if cached.
    """

    needs: Mapping[str, tuple[str, ...]]
    runnable: frozenset[str]
    forced: frozenset[str]


def stage_graph(stages: Mapping[str, Stage[Any]], recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Stages that a recipe has → stages that each needs, in an order in which they can run."""
    needs: dict[str, tuple[str, ...]] = {}
    order: dict[str, tuple[str, ...]] = {}
    present = {name for name, stage in stages.items() if stage.applies_to(recipe)}
    for name, stage in stages.items():
        if name in present:
            # a stage may name one that this recipe does not have, such as prior images
            needs[name] = tuple(above for above in stage.needs if above in present)
            order[name] = (*needs[name], *(before for before in stage.runs_after if before in present))
    return {name: needs[name] for name in TopologicalSorter(order).static_order()}


def select_stages(needs: Mapping[str, tuple[str, ...]], selection: Selection) -> SelectedStages:
    """Apply a selection to a recipe's stages. needs: as `stage_graph` returns it.

    Raises UsageError for names of no stage, options that exclude each other, and a selection of nothing.
    """
    if selection.only and (selection.until or selection.from_):
        raise UsageError("--only cannot be combined with --until or --from", fix="leave one of them out")
    last = selection.only or selection.until
    first = selection.only or selection.from_
    for name in (last, first, *selection.force):
        if name is not None and name not in needs:
            raise _unknown_stage(name, needs)
    # what lies above `first` is planned too: its results must be known to be cached
    planned = _closure([last], needs) if last else set(needs)
    below = _closure([first], _dependents(needs)) if first else set(needs)
    runnable = frozenset(planned & below)
    if not runnable:
        raise UsageError(f"found --from {first} and --until {last}, with no stage between them",
                         fix=f"the order is {', '.join(needs)}")
    stray = [name for name in selection.force if name not in runnable]
    if stray:
        allowed = ", ".join(name for name in needs if name in runnable)
        raise UsageError(f"--force {stray[0]}: this command does not run {stray[0]}", fix=f"it may run {allowed}")
    planned_needs = {name: above for name, above in needs.items() if name in planned}
    return SelectedStages(planned_needs, runnable, frozenset(selection.force))


def _closure(start: Iterable[str], links: Mapping[str, Sequence[str]]) -> set[str]:
    """The given stages and all that can be reached from them along `links`."""
    reached: set[str] = set()
    todo = list(start)
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += links[name]
    return reached


def _dependents(needs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The same graph with its arrows reversed: stage → stages that need it."""
    dependents: dict[str, list[str]] = {name: [] for name in needs}
    for name, above in needs.items():
        for needed in above:
            dependents[needed].append(name)
    return dependents


def _unknown_stage(name: str, needs: Mapping[str, object]) -> UsageError:
    # imported here: a command without a typing error starts without it
    from difflib import get_close_matches

    near = get_close_matches(name, list(needs), n=1)
    fix = f"did you mean {near[0]}?" if near else "name one of these"
    return UsageError(f"this recipe has no stage {name!r}; it has {', '.join(needs)}", fix=fix)
