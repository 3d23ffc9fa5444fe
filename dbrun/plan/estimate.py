"""How long will a stage take, and how much memory and disk? As the most similar earlier work did, scaled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from dbrun.plan.differences import changes, neutrals
from dbrun.plan.grid import foretold
from dbrun.plan.jobs import Jobs
from dbrun.plan.keys import Ask
from dbrun.plan.planner import Plan, Scope, StagePlan, Status
from dbrun.plan.reasons import Resumes
from dbrun.store.traces import Trace
from dbrun.values import dataclass

RECENT = 8
"""Earlier results of a stage that are compared."""
LITTLE = 0.1
"""A share of the work too small to tell from it how long all of it takes: most of that was getting ready."""


@dataclass(frozen=True)
class Estimate:
    """What a stage will take. memory: bytes at most, 0 where that is not known; disk: bytes of its result."""

    seconds: float
    memory: int
    disk: int


def estimates(within: Scope, plan: Plan) -> Mapping[str, Estimate]:
    """For each stage that is to run, what it will take, as far as there is earlier work on such a device."""
    pending = [stage for stage in plan.stages if stage.status in (Status.RUN, Status.RESUME)]
    known = {stage: list(within.store.traces.recent(stage.name, RECENT)) for stage in pending}
    if not any(known.values()):
        return {}
    digests = foretold(within, plan)
    found = {stage.name: _estimate(question := within.ask(stage.name, digests), _done(within, question, stage, digests),
                                   earlier)
             for stage, earlier in known.items() if earlier}
    return {name: one for name, one in found.items() if one is not None}


def total(known: Iterable[Estimate]) -> Estimate:
    """Stages one after another."""
    every = list(known)
    return Estimate(sum(e.seconds for e in every), max((e.memory for e in every), default=0),
                    sum(e.disk for e in every))


def _estimate(question: Ask, done: float, earlier: Iterable[Trace]) -> Estimate | None:
    numerics = question.document["numerics"]
    alike = [trace for trace in earlier if trace.document.get("numerics") == numerics]
    if not alike:
        return None
    whole = [trace for trace in alike if trace.share > LITTLE] or alike
    nearest = min(whole, key=lambda trace: len(changes(question, trace.document)))
    seconds = nearest.seconds / max(nearest.share, LITTLE) * _longer(question, nearest)
    return Estimate(round(seconds * (1.0 - done), 1), nearest.memory,
                    sum(file.size for file in nearest.files.values()))


def _longer(question: Ask, trace: Trace) -> float:
    """How many times as long the work is as it was, by the params that it grows with."""
    params = trace.document.get("params")
    before, ratio = {**neutrals(question.params), **params} if isinstance(params, dict) else {}, 1.0
    for name in question.stage.amounts:
        now, was = getattr(question.params, name), before.get(name)
        if isinstance(now, int) and isinstance(was, int) and was > 0:
            ratio *= now / was
    return ratio


def _done(within: Scope, question: Ask, stage: StagePlan, digests: Mapping[str, str]) -> float:
    """The share of the work that earlier runs have done already: single items, or steps."""
    if keys := question.stage.items(question.params, digests, within.numerics):
        items = Jobs(within, lambda: 0, lambda: None).items(question, lambda event: None,
                                                            anew=stage.name in within.chosen.forced)
        return 1.0 - items.left(keys)
    said = re.match(r"step (\d+)", stage.reason.done) if isinstance(stage.reason, Resumes) else None
    limits = [getattr(question.params, name) for name in question.stage.lengthens(question.params)]
    return min(1.0, int(said[1]) / limits[0]) if said and limits and limits[0] else 0.0
