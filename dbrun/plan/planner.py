"""What will be done, and why? Nothing is run and nothing is written to find out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from dbrun.plan import device
from dbrun.plan.cache_key import StageKey, make_stage_key
from dbrun.plan.history import last_key_documents, run_with_key
from dbrun.plan.reasons import (
    DamagedResult,
    MissingRequirement,
    NewRunName,
    NotSelected,
    Reason,
    Resumes,
    SimpleReason,
    UnpinnedBase,
    UpstreamBlocked,
    WaitsFor,
)
from dbrun.plan.selection import SelectedStages, Selection, select_stages, stage_graph
from dbrun.recipe.schema.model import Recipe
from dbrun.resolve.sources import ResolvedSources
from dbrun.stages.base import Stage
from dbrun.stages.base import stages as all_stages
from dbrun.stages.sources import Numerics
from dbrun.store.atomic import list_dir
from dbrun.store.items import count_items
from dbrun.store.store import CheckDepth, Damage, Store
from dbrun.store.traces import Trace

ALL_STAGES = Selection()
BASE_STAGE = "load"
"""The stage that stands for the base; the others reach the base only through it."""
CHECKPOINT_NAME = re.compile(r"step-(\d+)\b")
RECENT_RESULTS = 200
"""Earlier results of a stage that are compared where its recipe never ran here."""


class Status(StrEnum):
    """What becomes of a stage."""

    HIT = "hit"
    RUN = "run"
    RESUME = "resume"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class StagePlan:
    """What becomes of one stage. key: None while results above are unknown; digest: of a cached result."""

    name: str
    status: Status
    reason: Reason
    key: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Plan:
    """What becomes of each stage, in order. stages_read: those whose results are used, and so were compared byte for
    byte."""

    stages: tuple[StagePlan, ...]
    stages_read: frozenset[str] = frozenset()

    @property
    def has_pending(self) -> bool:
        """Whether anything is left to do."""
        return any(s.status is not Status.HIT for s in self.stages)

    @property
    def blocked_stages(self) -> tuple[StagePlan, ...]:
        """The stages that cannot run."""
        return tuple(s for s in self.stages if s.status is Status.BLOCKED)

    def as_json(self) -> dict[str, object]:
        """The plan as plain data."""
        return {"format_version": 1,
                "stages": [{"name": s.name, "status": s.status.value, "reason": str(s.reason), "key": s.key,
                            "digest": s.digest} for s in self.stages]}


@dataclass(frozen=True)
class Scope:
    """What planning and running share: the recipe with its sources, its stages, and those that are chosen."""

    recipe: Recipe
    resolved: ResolvedSources
    store: Store
    stages: Mapping[str, Stage[Any]]
    selected_stages: SelectedStages
    numerics: Numerics
    stage_keys: dict[tuple[str, ...], StageKey] = field(default_factory=dict)
    """The questions so far, by stage and upstream digests: with many pictures each takes a while to write down."""

    @property
    def delivering_stages(self) -> tuple[str, ...]:
        """The chosen stages whose files go to the outputs, in order."""
        return tuple(name for name in self.selected_stages.needs if self.stages[name].delivers)

    def stage_key(self, name: str, digests: Mapping[str, str]) -> StageKey:
        """The question to a stage whose upstream digests are known."""
        stage = self.stages[name]
        inputs = {n: digests[n] for n in self.selected_stages.needs[name]}
        known = (name, *inputs.values())
        if known not in self.stage_keys:
            params = stage.params(self.recipe, self.resolved.sources)
            self.stage_keys[known] = make_stage_key(stage, params, inputs, self.numerics)
        return self.stage_keys[known]


def make_scope(recipe: Recipe, resolved: ResolvedSources, store: Store, selection: Selection,
               stages: Mapping[str, Stage[Any]] | None) -> Scope:
    """Resolve a selection and the device. Raises UsageError."""
    stages = all_stages() if stages is None else stages
    chosen = select_stages(stage_graph(stages, recipe), selection)
    return Scope(recipe, resolved, store, stages, chosen, device.resolve_numerics(recipe.device, recipe.threads))


def make_plan(recipe: Recipe, resolved: ResolvedSources, store: Store, selection: Selection = ALL_STAGES, *,
              stages: Mapping[str, Stage[Any]] | None = None) -> Plan:
    """Compare every chosen stage with the store. stages: other than those of the package, for tests."""
    return plan_scope(make_scope(recipe, resolved, store, selection, stages))


def plan_scope(scope: Scope) -> Plan:
    """The plan of a scope."""
    read, needs = frozenset(scope.delivering_stages), scope.selected_stages.needs
    while True:
        plans: dict[str, StagePlan] = {}
        for name in needs:
            plans[name] = _plan_stage(name, scope, plans, read)
        runs = [name for name, plan in plans.items() if plan.status is not Status.HIT]
        more = read.union(runs, *(needs[name] for name in runs))
        trusted = [name for name in more - read if plans[name].status is Status.HIT]
        read = more
        if not trusted:
            return Plan(tuple(_refetch_base(plans, scope).values()), read)


def cache_status(stage_key: StageKey, store: Store, *, run_name: str, forced: bool,
                 depth: CheckDepth) -> tuple[Status, Reason, Trace | None]:
    """Whether a stage's result is in the store; if not, why not, and whether work goes on. depth: see `Store.look`."""
    found = store.look_up(stage_key.stage.NAME, stage_key.key, depth)
    if isinstance(found, Trace) and not forced:
        return Status.HIT, SimpleReason.CACHED, found
    if forced:
        return Status.RUN, SimpleReason.FORCED, None
    why = DamagedResult(found.lines) if isinstance(found, Damage) else _why_not_cached(stage_key, store, run_name)
    done = saved_progress(stage_key, store.work_folder(stage_key.resume_key))
    return (Status.RESUME, Resumes(why, done), None) if done else (Status.RUN, why, None)


def saved_progress(stage_key: StageKey, work: Path) -> str | None:
    """How far unfinished work came: the last usable checkpoint, or the items made."""
    limits = [getattr(stage_key.params, name) for name in stage_key.stage.extendable_params(stage_key.params)]
    most = min((n for n in limits if isinstance(n, int)), default=None)
    found = [CHECKPOINT_NAME.match(p.name) for folder in (work, work / "checkpoints") for p in list_dir(folder)]
    usable = [int(match[1]) for match in found if match and (most is None or int(match[1]) <= most)]
    if usable:
        return f"step {max(usable)}"
    made = count_items(work)
    return f"{made} item{'s' if made > 1 else ''} made" if made else None


def _why_not_cached(stage_key: StageKey, store: Store, run_name: str) -> Reason:
    # not at the top: a plan of which all is cached starts without it
    from dbrun.plan.diff_keys import find_nearest_key, miss_reason

    stage = stage_key.stage.NAME
    if last := list(last_key_documents(store, run_name, stage)):
        return miss_reason(stage_key, last)
    others = list(store.traces.recent(stage, RECENT_RESULTS))
    found = find_nearest_key(stage_key, [trace.document for trace in others])
    if found is None:
        return SimpleReason.NO_EARLIER_RESULT
    return NewRunName(run_with_key(store, stage, others[found[0]].key), found[1])


def _plan_stage(name: str, scope: Scope, plans: Mapping[str, StagePlan], read: frozenset[str]) -> StagePlan:
    above = [plans[n] for n in scope.selected_stages.needs[name]]
    if behind := _names_with_status(above, Status.BLOCKED):
        return StagePlan(name, Status.BLOCKED, UpstreamBlocked(behind))
    if waiting := _names_with_status(above, Status.RUN, Status.RESUME):
        return _block_if_needed(StagePlan(name, Status.RUN, WaitsFor(waiting)), scope)
    if name == BASE_STAGE and scope.resolved.unpinned_revision is not None:
        return _block_if_needed(StagePlan(name, Status.RUN, UnpinnedBase(scope.resolved.unpinned_revision)), scope)
    stage_key = scope.stage_key(name, {s.name: s.digest for s in above if s.digest})
    status, why, trace = cache_status(stage_key, scope.store, run_name=scope.recipe.name,
                                      forced=name in scope.selected_stages.forced,
                                      depth="digests" if name in read else "sizes")
    if trace is not None:
        return StagePlan(name, status, why, stage_key.key, trace.digest)
    return _block_if_needed(StagePlan(name, status, why, stage_key.key), scope)


def _names_with_status(above: Iterable[StagePlan], *statuses: Status) -> tuple[str, ...]:
    return tuple(s.name for s in above if s.status in statuses)


def _block_if_needed(plan: StagePlan, scope: Scope) -> StagePlan:
    """The plan of a stage that would run, blocked where it may or can not."""
    if plan.name not in scope.selected_stages.runnable:
        return replace(plan, status=Status.BLOCKED, reason=NotSelected(plan.reason))
    lacking = _missing_requirement(plan.name, scope)
    return replace(plan, status=Status.BLOCKED, reason=lacking) if lacking else plan


def _missing_requirement(name: str, scope: Scope) -> MissingRequirement | None:
    """What this machine lacks for a stage."""
    if name == BASE_STAGE:
        missing = scope.resolved.unavailable_reason
        return MissingRequirement(missing, "unset HF_HUB_OFFLINE, or name a base that is here") if missing else None
    stage = scope.stages[name]
    needed = stage.required_packages(stage.params(scope.recipe, scope.resolved.sources))
    for package in (*needed, *stage.optional_packages(scope.recipe)):
        if not package.is_installed:
            return MissingRequirement(f"the package {package.name} is not installed", package.install_command)
    if not stage.device_dependent:
        return None
    if missing := device.why_unavailable(scope.numerics.device):
        return MissingRequirement(missing, "write `device: auto`, or run it where there is one")
    launch = scope.recipe.launch
    if scope.stages[name].multi_process and (
            missing := device.why_too_few_gpus(scope.numerics.device, launch.processes // launch.machines)):
        return MissingRequirement(missing, "lower `launch.processes`, or write `device: cpu`")
    if scope.recipe.train.precision == "fp16" and scope.numerics.device == "cpu":
        return MissingRequirement("fp16 needs a GPU, and this runs on the CPU",
                                  "write `train.precision: fp32` (or bf16)")
    if scope.recipe.train.tf32 and scope.numerics.device != "cuda":
        return MissingRequirement(f"TF32 needs an NVIDIA GPU, and this runs on {scope.numerics.device}",
                                  "write `tf32: false`")
    return None


def _refetch_base(plans: dict[str, StagePlan], scope: Scope) -> dict[str, StagePlan]:
    """Fetch the base again where other stages run and it is gone."""
    base = plans.get(BASE_STAGE)
    runs = any(s.status in (Status.RUN, Status.RESUME) for s in plans.values())
    if base is None or base.status is not Status.HIT or scope.resolved.sources.base.folder or not runs:
        return plans
    again = _block_if_needed(replace(base, status=Status.RUN, reason=SimpleReason.BASE_GONE), scope)
    if again.status is Status.RUN:
        return {**plans, BASE_STAGE: again}
    behind = {n: replace(s, status=Status.BLOCKED, reason=UpstreamBlocked((BASE_STAGE,)))
              for n, s in plans.items() if s.status is not Status.HIT}
    return {**plans, **behind, BASE_STAGE: again}
