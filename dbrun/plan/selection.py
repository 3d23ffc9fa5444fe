"""Which stages does a command ask for: what is looked at, what may run, what must run?"""

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
    """What a command asks for.

    until: this stage and what it needs; from_: this stage and what follows, the rest must be cached; only:
    both at once; force: run even if cached.
    """

    until: str | None = None
    from_: str | None = None
    only: str | None = None
    force: tuple[str, ...] = ()


@dataclass(frozen=True)
class SelectedStages:
    """The stages looked at, in order, with what each needs; those that may run, and those that must."""

    needs: Mapping[str, tuple[str, ...]]
    runnable: frozenset[str]
    forced: frozenset[str]


def stage_graph(stages: Mapping[str, Stage[Any]], recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """The stages that this recipe has, in an order in which they can run, each with those that it needs."""
    wanted = {name for name, stage in stages.items() if stage.applies_to(recipe)}
    needs = {name: tuple(n for n in stages[name].needs if n in wanted) for name in stages if name in wanted}
    return {name: needs[name] for name in TopologicalSorter(needs).static_order()}


def select_stages(needs: Mapping[str, tuple[str, ...]], selection: Selection) -> SelectedStages:
    """Apply a selection to a recipe's stages, given in order. Raises UsageError for unknown names."""
    if selection.only and (selection.until or selection.from_):
        raise UsageError("--only goes with neither --until nor --from", fix="leave one of them out")
    last, first = selection.only or selection.until, selection.only or selection.from_
    for name in (last, first, *selection.force):
        if name is not None and name not in needs:
            raise _unknown_stage(name, needs)
    seen = _closure([last], needs) if last else set(needs)
    below = _closure([first], _dependents(needs)) if first else set(needs)
    if not seen & below:
        raise UsageError(f"nothing lies between --from {first} and --until {last}",
                         fix=f"the order is {', '.join(needs)}")
    stray = [name for name in selection.force if name not in seen & below]
    if stray:
        raise UsageError(f"--force {stray[0]}: this command does not run {stray[0]}",
                         fix=f"it may run {', '.join(n for n in needs if n in seen & below)}")
    return SelectedStages({name: needs[name] for name in needs if name in seen}, frozenset(seen & below),
                          frozenset(selection.force))


def _closure(start: Iterable[str], links: Mapping[str, Sequence[str]]) -> set[str]:
    found: set[str] = set()
    todo = list(start)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += links[name]
    return found


def _dependents(needs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {name: [other for other, above in needs.items() if name in above] for name in needs}


def _unknown_stage(name: str, needs: Mapping[str, object]) -> UsageError:
    from difflib import get_close_matches

    near = get_close_matches(name, list(needs), n=1)
    return UsageError(f"this recipe has no stage {name!r}; it has {', '.join(needs)}",
                      fix=f"did you mean {near[0]}?" if near else "take one of these")
