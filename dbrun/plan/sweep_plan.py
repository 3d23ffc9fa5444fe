"""Several runs of one recipe as one plan: which of their stages are the same work?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbrun.plan.planner import Plan, Scope, StagePlan


@dataclass(frozen=True)
class SharedWork:
    """One stage's work. plan: what becomes of it; runs: the numbers of the runs that have it in common."""

    plan: StagePlan
    runs: tuple[int, ...]


def shared_work(planned: Sequence[tuple[Scope, Plan]]) -> tuple[SharedWork, ...]:
    """The work of several runs, each piece once, in an order in which it can be done."""
    first: dict[tuple[str, str], StagePlan] = {}
    runs: dict[tuple[str, str], list[int]] = {}
    for number, (scope, plan) in enumerate(planned):
        keys = placeholder_digests(scope, plan)
        for stage in plan.stages:
            piece = stage.name, keys[stage.name]
            first.setdefault(piece, stage)
            runs.setdefault(piece, []).append(number)
    order = {stage.name: i for _, plan in planned for i, stage in enumerate(plan.stages)}
    pieces = sorted(first, key=lambda piece: (order[piece[0]], runs[piece]))
    return tuple(SharedWork(first[piece], tuple(runs[piece])) for piece in pieces)


def placeholder_digests(scope: Scope, plan: Plan) -> Mapping[str, str]:
    """For each stage its digest, or what stands for it while it is unknown: equal for equal questions.

    A result that is made again, as one that is forced, is taken to be the same again.
    """
    found: dict[str, str] = {}
    for stage in plan.stages:
        stage_key = scope.stage_key(stage.name, found)
        before = None if stage.digest else scope.store.traces.read(stage.name, stage_key.key)
        found[stage.name] = stage.digest or (before.digest if before else stage_key.key)
    return found
