"""How long will a stage take, and how much memory and disk? As the earlier work that is most like it, scaled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isclose, log
from pathlib import Path

from dbrun.plan.cache_key import Ask
from dbrun.plan.planner import BASE_STAGE, Plan, Scope, StagePlan, Status
from dbrun.plan.reasons import After, Resumes
from dbrun.plan.sweep_plan import Together, foretold
from dbrun.run.stage_context import Jobs
from dbrun.stages.support.amounts import Amounts
from dbrun.store.traces import Trace

RECENT = 32
"""Earlier results of a stage that are looked at."""
UNKNOWN = float("inf")


@dataclass(frozen=True)
class _Shared:
    """What the estimates of several runs share. earlier: results by stage, as far as they have been read.

    promised: the names of the items that the runs before will have made.
    """

    earlier: dict[str, list[Trace]] = field(default_factory=dict)
    promised: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Estimate:
    """What a stage will take. memory: bytes at most; disk: bytes of its result; None where that is not known."""

    seconds: float
    memory: int | None
    disk: int | None


CACHED = Estimate(0.0, 0, 0)
"""What a stage takes that waits for others, and whose result stands if theirs come out as before."""


def estimates(within: Scope, plan: Plan) -> Mapping[str, Estimate]:
    """For each stage that is to run, what it will take, as far as like work was done before on such a device."""
    names = [stage.name for stage in plan.stages]
    found = dict(zip(names, _estimates(within, plan, names, _Shared()), strict=True))
    return {name: one for name, one in found.items() if one is not None}


def estimates_together(planned: Sequence[tuple[Scope, Plan]], work: Sequence[Together]) -> tuple[Estimate | None, ...]:
    """The same for each piece of work that several runs have in common. work: that of `together`."""
    shared, found = _Shared(), dict[int, Estimate | None]()
    for number, (within, plan) in enumerate(planned):
        own = [place for place, one in enumerate(work) if one.runs[0] == number]
        found |= zip(own, _estimates(within, plan, [work[place].plan.name for place in own], shared), strict=True)
    return tuple(found[place] for place in range(len(work)))


def _estimates(within: Scope, plan: Plan, names: Sequence[str], shared: _Shared) -> list[Estimate | None]:
    """For each of the named stages."""
    known = shared.earlier
    pending = {stage.name: stage for stage in plan.stages if stage.status in (Status.RUN, Status.RESUME)}
    for name in pending.keys() & set(names) - known.keys():
        known[name] = list(within.store.traces.recent(name, RECENT))
    guided = [name for name in names if name in pending and known[name]]
    digests = foretold(within, plan) if guided else {}
    return [_of_stage(within, pending[name], digests, shared) if name in guided else None for name in names]


def _of_stage(within: Scope, stage: StagePlan, digests: Mapping[str, str], shared: _Shared) -> Estimate | None:
    question = within.ask(stage.name, digests)
    if isinstance(stage.reason, After) and stage.name not in within.chosen.forced and isinstance(
            within.store.look(stage.name, question.key), Trace):
        return CACHED
    now = amounts(within, stage.name, within.located.sources.base.folder)
    guides = [(trace, was) for trace in shared.earlier[stage.name] if (was := _guide(question, now, trace)) is not None]
    done = _items_done(within, question, stage, digests, shared.promised)
    return _estimate(now, _steps_done(stage, now) if done is None else done, guides) if guides else None


def amounts(within: Scope, name: str, base: Path | None) -> Amounts:
    """How large a stage's whole work is. base: where the base is now, if it is."""
    stage, sources = within.stages[name], within.located.sources
    found = stage.amounts(within.recipe, replace(sources, base=replace(sources.base, folder=base)))
    processes = within.recipe.launch.processes
    return replace(found, like=(*found.like, f"{processes} processes")) if stage.shared and processes > 1 else found


def total(known: Iterable[Estimate]) -> Estimate:
    """Stages one after another."""
    every = list(known)
    disk = [one.disk for one in every if one.disk is not None]
    return Estimate(sum(one.seconds for one in every),
                    max((one.memory for one in every if one.memory is not None), default=None),
                    sum(disk) if disk else None)


def _guide(question: Ask, now: Amounts, trace: Trace) -> Amounts | None:
    """The size of earlier work, where that was of the same kind, on the same base, on such a device."""
    was, old, new = trace.amounts, trace.document, question.document
    if was is None or was.like != now.like or trace.share <= 0 or len(was.memory) != len(now.memory):
        return None
    same = old.get("numerics") == new["numerics"] and _base(old) == _base(new)
    return was if same else None


def _base(document: Mapping[str, object]) -> object:
    inputs = document.get("inputs")
    return inputs.get(BASE_STAGE) if isinstance(inputs, dict) else None


def _estimate(now: Amounts, done: float, guides: Sequence[tuple[Trace, Amounts]]) -> Estimate | None:
    timed = [(_far([(now.each, was.each)]), -was.units * trace.share, seconds, trace) for trace, was in guides
             if (seconds := _seconds(now, done, trace, was)) is not None]
    if not timed:
        return None
    seconds, nearest = min(timed, key=lambda found: found[:2])[2:]
    return Estimate(round(seconds, 1), _memory(now, guides), _disk(now, nearest))


def _seconds(now: Amounts, done: float, trace: Trace, was: Amounts) -> float | None:
    """What is left, at the pace of earlier work; None where that was too little to tell a pace."""
    left, did = now.units * now.each * (1.0 - done), was.units * was.each * trace.share
    if trace.startup is None:
        return trace.seconds if isclose(left, did, rel_tol=1e-3) else None
    return trace.startup + (trace.seconds - trace.startup) * left / did


def _memory(now: Amounts, guides: Sequence[tuple[Trace, Amounts]]) -> int | None:
    """At most what the nearest work took: how much of it grows is not known, so all of it may, and none may shrink."""
    bounds = []
    for trace, was in guides:
        pairs = list(zip(now.memory, was.memory, strict=True))
        if trace.memory and (far := _far(pairs)) < UNKNOWN:
            bounds.append((far, -trace.memory, trace.memory * max((1.0, *(new / old for new, old in pairs)))))
    return round(min(bounds)[2]) if bounds else None


def _disk(now: Amounts, trace: Trace) -> int | None:
    """The files of earlier work, each grown as its kind does."""
    whole, before = 0.0, trace.amounts.disk if trace.amounts else {}
    for name, file in trace.files.items():
        end = next((end for end in now.disk if name.endswith(end)), None)
        new, old = (1.0, 1.0) if end is None else (now.disk[end], before.get(end, 0.0))
        if not new or not old:
            return None
        whole += file.size * new / old
    return round(whole)


def _far(pairs: Iterable[tuple[float, float]]) -> float:
    """How far sizes are from earlier ones: 0 where they are equal."""
    return max((abs(log(new / old)) if new and old else UNKNOWN for new, old in pairs), default=0.0)


def _items_done(within: Scope, question: Ask, stage: StagePlan, digests: Mapping[str, str],
                promised: set[str]) -> float | None:
    """The share of a stage's single items that need not be made; None where they are not foretold."""
    keys, anew = question.stage.items(question.params, digests, within.numerics), stage.name in within.chosen.forced
    if not keys:
        return None
    items = Jobs(within, lambda: 0, lambda: None).items(question, lambda event: None, anew=anew)
    there = items.standing(keys)
    done = sum(stands or (name in promised and not anew) for name, stands in there.items()) / len(there)
    promised.update(there)
    return done


def _steps_done(stage: StagePlan, now: Amounts) -> float:
    """The share of the work that an earlier run has done already."""
    said = re.search(r"\d+", stage.reason.done) if isinstance(stage.reason, Resumes) else None
    return min(1.0, int(said[0]) / now.units) if said and now.units else 0.0
