"""Plan of a sweep: several runs of one recipe, with the stages that they share counted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbrun.plan.planner import Plan, Scope, StagePlan


@dataclass(frozen=True)
class SharedWork:
    """Work of one stage that one or more runs need. plan: its plan in the first of them; runs: their indices."""

    plan: StagePlan
    runs: tuple[int, ...]


def shared_work(planned: Sequence[tuple[Scope, Plan]]) -> tuple[SharedWork, ...]:
    """Work of several runs, each piece once, in an order in which it can be done."""
    first: dict[tuple[str, str], StagePlan] = {}
    runs: dict[tuple[str, str], list[int]] = {}
    for number, (scope, plan) in enumerate(planned):
        keys = placeholder_digests(scope, plan)
        for stage in plan.stages:
            # equal digests or equal placeholders mean equal work
            piece = stage.name, keys[stage.name]
            first.setdefault(piece, stage)
            runs.setdefault(piece, []).append(number)
    order: dict[str, int] = {}
    for _, plan in planned:
        order.update((stage.name, index) for index, stage in enumerate(plan.stages))
    pieces = sorted(first, key=lambda piece: (order[piece[0]], runs[piece]))
    return tuple(SharedWork(first[piece], tuple(runs[piece])) for piece in pieces)


def placeholder_digests(scope: Scope, plan: Plan) -> Mapping[str, str]:
    """Digest of each stage's result by stage name; for a result that is not known yet, a placeholder.

    The placeholder is the digest that the same key gave before, as when a stage is forced, else the key itself. So it
    is equal for equal work.
    """
    digests: dict[str, str] = {}
    for stage in plan.stages:
        # this key can hold placeholders itself: then it names the work, but is not the key that the run will use
        stage_key = scope.stage_key(stage.name, digests)
        if stage.digest:
            digests[stage.name] = stage.digest
            continue
        earlier = scope.store.traces.read(stage.name, stage_key.key)
        digests[stage.name] = earlier.digest if earlier else stage_key.key
    return digests
