"""How long will a stage take, and how much memory and disk? As the earlier work that is most like it, scaled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isclose, log
from pathlib import Path

from dbrun.plan.cache_key import StageKey
from dbrun.plan.item_cache import item_cache
from dbrun.plan.planner import BASE_STAGE, Plan, Scope, StagePlan, Status
from dbrun.plan.reasons import Resumes, WaitsFor
from dbrun.plan.sweep_plan import SharedWork, placeholder_digests
from dbrun.store.traces import Trace
from dbrun.workload import Workload

RECENT_RESULTS = 32
"""Earlier results of a stage that are looked at."""
UNKNOWN_DISTANCE = float("inf")


@dataclass(frozen=True)
class _SharedState:
    """What the estimates of several runs share. earlier_results: results by stage, as far as they have been read.

    planned_items: the names of the items that the runs before will have made.
    """

    earlier_results: dict[str, list[Trace]] = field(default_factory=dict)
    planned_items: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Estimate:
    """What a stage will take. memory: bytes at most; disk: bytes of its result; None where that is not known."""

    seconds: float
    memory: int | None
    disk: int | None


CACHED_ESTIMATE = Estimate(0.0, 0, 0)
"""What a stage takes that waits for others, and whose result stands if theirs come out as before."""


def estimate_stages(scope: Scope, plan: Plan) -> Mapping[str, Estimate]:
    """For each stage that is to run, what it will take, as far as like work was done before on such a device."""
    names = [stage.name for stage in plan.stages]
    found = dict(zip(names, _estimate_named(scope, plan, names, _SharedState()), strict=True))
    return {name: one for name, one in found.items() if one is not None}


def estimate_sweep(planned: Sequence[tuple[Scope, Plan]], work: Sequence[SharedWork]) -> tuple[Estimate | None, ...]:
    """The same for each piece of work that several runs have in common. work: that of `together`."""
    shared, found = _SharedState(), dict[int, Estimate | None]()
    for number, (scope, plan) in enumerate(planned):
        own = [place for place, one in enumerate(work) if one.runs[0] == number]
        found |= zip(own, _estimate_named(scope, plan, [work[place].plan.name for place in own], shared), strict=True)
    return tuple(found[place] for place in range(len(work)))


def _estimate_named(scope: Scope, plan: Plan, names: Sequence[str], shared: _SharedState) -> list[Estimate | None]:
    """For each of the named stages."""
    known = shared.earlier_results
    pending = {stage.name: stage for stage in plan.stages if stage.status in (Status.RUN, Status.RESUME)}
    for name in pending.keys() & set(names) - known.keys():
        known[name] = list(scope.store.traces.recent(name, RECENT_RESULTS))
    guided = [name for name in names if name in pending and known[name]]
    digests = placeholder_digests(scope, plan) if guided else {}
    return [_estimate_stage(scope, pending[name], digests, shared) if name in guided else None for name in names]


def _estimate_stage(scope: Scope, stage: StagePlan, digests: Mapping[str, str],
                    shared: _SharedState) -> Estimate | None:
    stage_key = scope.stage_key(stage.name, digests)
    if isinstance(stage.reason, WaitsFor) and stage.name not in scope.selected_stages.forced and isinstance(
            scope.store.look_up(stage.name, stage_key.key), Trace):
        return CACHED_ESTIMATE
    now = stage_workload(scope, stage.name, scope.resolved.sources.base.folder)
    guides = [(trace, was) for trace in shared.earlier_results[stage.name]
              if (was := _comparable_workload(stage_key, now, trace)) is not None]
    done = _done_share_of_items(scope, stage_key, stage, digests, shared.planned_items)
    return _scale_estimate(now, _done_share_of_steps(stage, now) if done is None else done, guides) if guides else None


def stage_workload(scope: Scope, name: str, base: Path | None) -> Workload:
    """How large a stage's whole work is. base: where the base is now, if it is."""
    stage, sources = scope.stages[name], scope.resolved.sources
    found = stage.workload(scope.recipe, replace(sources, base=replace(sources.base, folder=base)))
    processes = scope.recipe.launch.processes
    if not stage.multi_process or processes == 1:
        return found
    return replace(found, like=(*found.like, f"{processes} processes"))


def total_estimate(known: Iterable[Estimate]) -> Estimate:
    """Stages one after another."""
    every = list(known)
    disk = [one.disk for one in every if one.disk is not None]
    return Estimate(sum(one.seconds for one in every),
                    max((one.memory for one in every if one.memory is not None), default=None),
                    sum(disk) if disk else None)


def _comparable_workload(stage_key: StageKey, now: Workload, trace: Trace) -> Workload | None:
    """The size of earlier work, where that was of the same kind, on the same base, on such a device."""
    was, old, new = trace.amounts, trace.document, stage_key.document
    if was is None or was.like != now.like or trace.share <= 0 or len(was.memory) != len(now.memory):
        return None
    same = old.get("numerics") == new["numerics"] and _base_digest(old) == _base_digest(new)
    return was if same else None


def _base_digest(document: Mapping[str, object]) -> object:
    inputs = document.get("inputs")
    return inputs.get(BASE_STAGE) if isinstance(inputs, dict) else None


def _scale_estimate(now: Workload, done: float, guides: Sequence[tuple[Trace, Workload]]) -> Estimate | None:
    timed = [(_distance([(now.each, was.each)]), -was.units * trace.share, seconds, trace) for trace, was in guides
             if (seconds := _seconds(now, done, trace, was)) is not None]
    if not timed:
        return None
    seconds, nearest = min(timed, key=lambda found: found[:2])[2:]
    return Estimate(round(seconds, 1), _memory(now, guides), _disk(now, nearest))


def _seconds(now: Workload, done: float, trace: Trace, was: Workload) -> float | None:
    """What is left, at the pace of earlier work; None where that was too little to tell a pace."""
    left, did = now.units * now.each * (1.0 - done), was.units * was.each * trace.share
    if trace.startup is None:
        return trace.seconds if isclose(left, did, rel_tol=1e-3) else None
    return trace.startup + (trace.seconds - trace.startup) * left / did


def _memory(now: Workload, guides: Sequence[tuple[Trace, Workload]]) -> int | None:
    """At most what the nearest work took: how much of it grows is not known, so all of it may, and none may shrink."""
    bounds = []
    for trace, was in guides:
        pairs = list(zip(now.memory, was.memory, strict=True))
        if trace.memory and (far := _distance(pairs)) < UNKNOWN_DISTANCE:
            bounds.append((far, -trace.memory, trace.memory * max((1.0, *(new / old for new, old in pairs)))))
    return round(min(bounds)[2]) if bounds else None


def _disk(now: Workload, trace: Trace) -> int | None:
    """The files of earlier work, each grown as its kind does."""
    whole, before = 0.0, trace.amounts.disk if trace.amounts else {}
    for name, file in trace.files.items():
        end = next((end for end in now.disk if name.endswith(end)), None)
        new, old = (1.0, 1.0) if end is None else (now.disk[end], before.get(end, 0.0))
        if not new or not old:
            return None
        whole += file.size * new / old
    return round(whole)


def _distance(pairs: Iterable[tuple[float, float]]) -> float:
    """How far sizes are from earlier ones: 0 where they are equal."""
    return max((abs(log(new / old)) if new and old else UNKNOWN_DISTANCE for new, old in pairs), default=0.0)


def _done_share_of_items(scope: Scope, stage_key: StageKey, stage: StagePlan, digests: Mapping[str, str],
                         planned_items: set[str]) -> float | None:
    """The share of a stage's single items that need not be made; None where they are not foretold."""
    keys = stage_key.stage.item_keys(stage_key.params, digests, scope.numerics)
    from_scratch = stage.name in scope.selected_stages.forced
    if not keys:
        return None
    items = item_cache(scope, stage_key, lambda event: None, lambda: None, from_scratch=from_scratch)
    there = items.cached_by_key(keys)
    done = sum(stands or (name in planned_items and not from_scratch) for name, stands in there.items()) / len(there)
    planned_items.update(there)
    return done


def _done_share_of_steps(stage: StagePlan, now: Workload) -> float:
    """The share of the work that an earlier run has done already."""
    said = re.search(r"\d+", stage.reason.done) if isinstance(stage.reason, Resumes) else None
    return min(1.0, int(said[0]) / now.units) if said and now.units else 0.0
