"""Estimates of the time, memory and disk that a stage will take: scaled from the most similar earlier work."""

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
"""Number of earlier results of a stage that an estimate is made from."""
UNKNOWN_DISTANCE = float("inf")
"""Distance between two workloads that cannot be compared, because a size of one is 0."""


_Earlier = tuple[Trace, Workload]
"""Earlier work of a stage: its record, and the workload that it had."""


@dataclass(frozen=True)
class EstimateCache:
    """State that the estimates of several runs of a sweep share; filled as they are made.

    earlier_results: by stage, as far as they were read; planned_items: names of the items that earlier runs of the
    sweep will make, so that later ones find them in the cache.
    """

    earlier_results: dict[str, list[Trace]] = field(default_factory=dict)
    planned_items: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Estimate:
    """Expected cost of a stage. seconds: wall time; memory: peak bytes; disk: bytes of its result; None if unknown.

    startup: the part of the seconds that does not grow with the work: loading the base, writing large files.
    """

    seconds: float
    memory: int | None
    disk: int | None
    startup: float | None = None


CACHED_ESTIMATE = Estimate(0.0, 0, 0)
"""Estimate of a stage that waits for others, and whose result is cached if they give the same results as before."""


def estimate_stages(scope: Scope, plan: Plan) -> Mapping[str, Estimate]:
    """Estimates of the stages that are to run, by name, without those of which nothing similar was run before."""
    names = [stage.name for stage in plan.stages]
    estimates = estimate_named(scope, plan, names, EstimateCache())
    return {name: estimate for name, estimate in zip(names, estimates, strict=True) if estimate is not None}


def estimate_sweep(planned: Sequence[tuple[Scope, Plan]], work: Sequence[SharedWork]) -> tuple[Estimate | None, ...]:
    """Estimate of each piece of work of a sweep, in the order of `work`. work: as `shared_work` returns it."""
    shared = EstimateCache()
    estimates: dict[int, Estimate | None] = {}
    for number, (scope, plan) in enumerate(planned):
        # shared work is done by the first of its runs
        own = [index for index, piece in enumerate(work) if piece.runs[0] == number]
        names = [work[index].plan.name for index in own]
        estimates.update(zip(own, estimate_named(scope, plan, names, shared), strict=True))
    return tuple(estimates[index] for index in range(len(work)))


def estimate_named(scope: Scope, plan: Plan, names: Sequence[str], shared: EstimateCache) -> list[Estimate | None]:
    """Estimate of each named stage, in this order; None where it does not run or nothing similar is known."""
    earlier = shared.earlier_results
    pending = {stage.name: stage for stage in plan.stages if stage.status in (Status.RUN, Status.RESUME)}
    for name in pending.keys() & set(names) - earlier.keys():
        earlier[name] = list(scope.store.traces.recent(name, RECENT_RESULTS))
    comparable = [name for name in names if name in pending and earlier[name]]
    # the digests need every stage's key, which takes a while with many pictures
    digests = placeholder_digests(scope, plan) if comparable else {}
    estimates: list[Estimate | None] = []
    for name in names:
        if name in comparable:
            estimates.append(_estimate_stage(scope, pending[name], digests, shared))
        else:
            estimates.append(None)
    return estimates


def _estimate_stage(scope: Scope, stage: StagePlan, digests: Mapping[str, str],
                    shared: EstimateCache) -> Estimate | None:
    stage_key = scope.stage_key(stage.name, digests)
    waits = isinstance(stage.reason, WaitsFor) and stage.name not in scope.selected_stages.forced
    # its key holds the earlier digests of the stages above: if they come out the same, it will be cached
    if waits and isinstance(scope.store.look_up(stage.name, stage_key.key), Trace):
        return CACHED_ESTIMATE
    now = stage_workload(scope, stage.name, scope.resolved.sources.base.folder)
    similar: list[_Earlier] = []
    for trace in shared.earlier_results[stage.name]:
        was = _comparable_workload(stage_key, now, trace)
        if was is not None:
            similar.append((trace, was))
    # called even if nothing is similar: it also notes the items that later runs of the sweep will find
    done = _done_share_of_items(scope, stage_key, stage, digests, shared.planned_items)
    if done is None:
        done = _done_share_of_steps(stage, now)
    return _scale_estimate(now, done, similar) if similar else None


def stage_workload(scope: Scope, name: str, base: Path | None) -> Workload:
    """Size of a stage's whole work. base: folder where the base is now; None if it is not on this machine."""
    stage, sources = scope.stages[name], scope.resolved.sources
    workload = stage.workload(scope.recipe, replace(sources, base=replace(sources.base, folder=base)))
    processes = scope.recipe.launch.processes
    if not stage.multi_process or processes == 1:
        return workload
    # the pace of four processes says little about the pace of one
    return replace(workload, like=(*workload.like, f"{processes} processes"))


def total_estimate(stages: Iterable[Estimate]) -> Estimate:
    """Estimate of stages that run one after another: seconds and disk are added, memory is the highest."""
    estimates = list(stages)
    seconds = sum(one.seconds for one in estimates)
    memory = max((one.memory for one in estimates if one.memory is not None), default=None)
    disk = [one.disk for one in estimates if one.disk is not None]
    # None, not 0: that would say that the results take no room
    disk_total = sum(disk) if disk else None
    return Estimate(seconds, memory, disk_total)


def _comparable_workload(stage_key: StageKey, now: Workload, trace: Trace) -> Workload | None:
    """Workload of an earlier result; None unless its kind, base and device were the same."""
    was, old, new = trace.amounts, trace.document, stage_key.document
    # a result of which all items were cached (share 0) says nothing about the pace
    if was is None or was.like != now.like or trace.share <= 0 or len(was.memory) != len(now.memory):
        return None
    same = old.get("numerics") == new["numerics"] and _base_digest(old) == _base_digest(new)
    return was if same else None


def _base_digest(document: Mapping[str, object]) -> object:
    inputs = document.get("inputs")
    return inputs.get(BASE_STAGE) if isinstance(inputs, dict) else None


def _scale_estimate(now: Workload, done: float, similar: Sequence[_Earlier]) -> Estimate | None:
    """Estimate from the earlier work with the nearest cost per unit; of equally near, the one with the most units.

    done: share of the work that need not be done again, 0 to 1.
    """
    timed: list[tuple[float, float, float, Trace]] = []
    for trace, was in similar:
        seconds = _seconds(now, done, trace, was)
        if seconds is not None:
            timed.append((_distance([(now.each, was.each)]), -was.units * trace.share, seconds, trace))
    if not timed:
        return None
    _, _, seconds, nearest = min(timed, key=lambda entry: entry[:2])
    return Estimate(round(seconds, 1), _memory(now, similar), _disk(now, nearest), nearest.startup)


def _seconds(now: Workload, done: float, trace: Trace, was: Workload) -> float | None:
    """Seconds for what is left, at the pace of earlier work; None if that was too short to show a pace."""
    left, did = now.units * now.each * (1.0 - done), was.units * was.each * trace.share
    # loading the base takes as long for 10 steps as for 1000, so only the time after it is scaled;
    # where the startup was not measured, only an equal amount of work has a known time
    if trace.startup is None:
        return trace.seconds if isclose(left, did, rel_tol=1e-3) else None
    return trace.startup + (trace.seconds - trace.startup) * left / did


def _memory(now: Workload, similar: Sequence[_Earlier]) -> int | None:
    """Upper bound of the peak memory in bytes, from the nearest earlier work.

    How much of a peak grows with the work is not known. So the bound lets all of it grow, and none of it shrink.
    """
    bounds: list[tuple[float, int, float]] = []
    for trace, was in similar:
        pairs = list(zip(now.memory, was.memory, strict=True))
        distance = _distance(pairs)
        if trace.memory and distance < UNKNOWN_DISTANCE:
            growth = max((1.0, *(new / old for new, old in pairs)))
            bounds.append((distance, -trace.memory, trace.memory * growth))
    return round(min(bounds)[2]) if bounds else None


def _disk(now: Workload, trace: Trace) -> int | None:
    """Bytes of the result: the files of earlier work, each scaled by the sizes that both workloads give its suffix."""
    before = trace.amounts.disk if trace.amounts else {}
    total = 0.0
    for name, file in trace.files.items():
        suffix = next((suffix for suffix in now.disk if name.endswith(suffix)), None)
        # files of no listed suffix, such as a config, keep their size
        new, old = (1.0, 1.0) if suffix is None else (now.disk[suffix], before.get(suffix, 0.0))
        if not new or not old:
            return None
        total += file.size * new / old
    return round(total)


def _distance(pairs: Iterable[tuple[float, float]]) -> float:
    """Distance of sizes from earlier ones: the largest |log(new / old)|, 0 if all are equal."""
    distances = [0.0]
    for new, old in pairs:
        if not new or not old:
            return UNKNOWN_DISTANCE
        # the logarithm makes half as large as far away as twice as large
        distances.append(abs(log(new / old)))
    return max(distances)


def _done_share_of_items(scope: Scope, stage_key: StageKey, stage: StagePlan, digests: Mapping[str, str],
                         planned_items: set[str]) -> float | None:
    """Share of a stage's items that need not be made, 0 to 1; None if the stage cannot name its items in advance.

    planned_items: gains the names of this stage's items.
    """
    keys = stage_key.stage.item_keys(stage_key.params, digests, scope.numerics)
    from_scratch = stage.name in scope.selected_stages.forced
    if not keys:
        return None
    items = item_cache(scope, stage_key, lambda event: None, lambda: None, from_scratch=from_scratch)
    cached = items.cached_by_key(keys)
    reusable = set() if from_scratch else planned_items
    done = sum(is_cached or name in reusable for name, is_cached in cached.items()) / len(cached)
    planned_items.update(cached)
    return done


def _done_share_of_steps(stage: StagePlan, now: Workload) -> float:
    """Share of the work that unfinished earlier work has done, 0 to 1. `Resumes.done` is a text such as "step 40"."""
    steps = re.search(r"\d+", stage.reason.done) if isinstance(stage.reason, Resumes) else None
    return min(1.0, int(steps[0]) / now.units) if steps and now.units else 0.0
