"""The plan of a recipe: which stages are cached, run, resume or are blocked, and why. Runs and writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from dbrun.naming import usable_step
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
"""Name of the stage that stands for the base; the others depend on the base only through its result."""
RECENT_RESULTS = 200
"""Number of earlier results that a stage is compared with if no run of its recipe's name is recorded."""


class Status(StrEnum):
    """Planned action for a stage: use the cached result, run, resume unfinished work, or nothing because it cannot."""

    HIT = "hit"
    RUN = "run"
    RESUME = "resume"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class StagePlan:
    """Plan of one stage. key: None while a result of a stage above is unknown; digest: of the result, if cached."""

    name: str
    status: Status
    reason: Reason
    key: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Plan:
    """Plan of each stage, in order of execution.

    stages_read: names of the stages whose results are used; their cached files were compared by digest, not only by
    size.
    """

    stages: tuple[StagePlan, ...]
    stages_read: frozenset[str] = frozenset()

    @property
    def has_pending(self) -> bool:
        """Whether any stage is not cached."""
        return any(s.status is not Status.HIT for s in self.stages)

    @property
    def blocked_stages(self) -> tuple[StagePlan, ...]:
        """Stages that cannot run, in order."""
        return tuple(s for s in self.stages if s.status is Status.BLOCKED)

    def to_json(self) -> dict[str, object]:
        """Plan as JSON data."""
        stages = [{"name": s.name, "status": s.status.value, "reason": str(s.reason), "key": s.key,
                   "digest": s.digest} for s in self.stages]
        return {"format_version": 1, "stages": stages}


@dataclass(frozen=True)
class Scope:
    """Everything that planning and running need: the recipe, its sources, the store and the selected stages.

    stages: all stages by name, also those that this recipe does not have; elsewhere: whether other machines will run
    them, so that this one's packages and devices do not count.
    """

    recipe: Recipe
    resolved: ResolvedSources
    store: Store
    stages: Mapping[str, Stage[Any]]
    selected_stages: SelectedStages
    numerics: Numerics
    elsewhere: bool = False
    stage_keys: dict[tuple[str, ...], StageKey] = field(default_factory=dict)
    """Keys made so far, by stage name and upstream digests: with many pictures each takes a while to make."""

    @property
    def delivering_stages(self) -> tuple[str, ...]:
        """Names of the selected stages whose files are copied to the outputs, in order."""
        return tuple(name for name in self.selected_stages.needs if self.stages[name].delivers)

    def stage_key(self, name: str, digests: Mapping[str, str]) -> StageKey:
        """Key of a stage. digests: stage → digest of its result, at least for all stages that this one needs."""
        stage = self.stages[name]
        inputs = {n: digests[n] for n in self.selected_stages.needs[name]}
        memo_key = (name, *inputs.values())
        if memo_key not in self.stage_keys:
            params = stage.params(self.recipe, self.resolved.sources)
            self.stage_keys[memo_key] = make_stage_key(stage, params, inputs, self.numerics)
        return self.stage_keys[memo_key]


def make_scope(recipe: Recipe, resolved: ResolvedSources, store: Store, selection: Selection,
               stages: Mapping[str, Stage[Any]] | None, *, elsewhere: bool = False) -> Scope:
    """Scope of a recipe: resolve the selection and the device. stages: None for those of the package; elsewhere: as in
    `Scope`.

    Raises UsageError for a selection that names no stage of this recipe, or contradicts itself.
    """
    stages = all_stages() if stages is None else stages
    selected = select_stages(stage_graph(stages, recipe), selection)
    numerics = device.resolve_numerics(recipe.device, recipe.threads, recipe.launch)
    recipe = device.resolve_for_device(recipe, numerics.device)
    return Scope(recipe, resolved, store, stages, selected, numerics, elsewhere)


def make_plan(recipe: Recipe, resolved: ResolvedSources, store: Store, selection: Selection = ALL_STAGES, *,
              stages: Mapping[str, Stage[Any]] | None = None) -> Plan:
    """Plan of a recipe. stages: None for those of the package, others for tests. Raises UsageError as `make_scope`."""
    return plan_scope(make_scope(recipe, resolved, store, selection, stages))


def plan_scope(scope: Scope) -> Plan:
    """Plan of a scope.

    Comparing files by digest is slow, so it is done only for results that are used: what is delivered, and what a
    stage that runs needs. Which stages run is known only after planning, and a damaged result makes one more run.
    So the plan is repeated until it trusts no result that it has to read.
    """
    read, needs = frozenset(scope.delivering_stages), scope.selected_stages.needs
    # each round adds at least one stage to `read`, so this ends
    while True:
        plans: dict[str, StagePlan] = {}
        for name in needs:
            plans[name] = _plan_stage(name, scope, plans, read)
        runs = [name for name, plan in plans.items() if plan.status is not Status.HIT]
        more = read.union(runs, *(needs[name] for name in runs))
        unread_hits = [name for name in more - read if plans[name].status is Status.HIT]
        read = more
        if not unread_hits:
            return Plan(tuple(_refetch_base(plans, scope).values()), read)


def cache_status(stage_key: StageKey, store: Store, *, run_name: str, forced: bool,
                 depth: CheckDepth) -> tuple[Status, Reason, Trace | None]:
    """Status of a stage with a known key, its reason, and the record of its result if it is cached.

    run_name: name of the recipe, for the reason; depth: how thoroughly files are compared, see `Store.look_up`.
    """
    if forced:
        return Status.RUN, SimpleReason.FORCED, None
    result = store.look_up(stage_key.stage.NAME, stage_key.key, depth)
    if isinstance(result, Trace):
        return Status.HIT, SimpleReason.CACHED, result
    elsewhere = store.remote_trace(stage_key.stage.NAME, stage_key.key, depth)
    if elsewhere is not None:
        return Status.HIT, SimpleReason.REMOTE, elsewhere
    why = DamagedResult(result.lines) if isinstance(result, Damage) else _why_not_cached(stage_key, store, run_name)
    done = saved_progress(stage_key, store.work_folder(stage_key.resume_key))
    return (Status.RESUME, Resumes(why, done), None) if done else (Status.RUN, why, None)


def saved_progress(stage_key: StageKey, work: Path) -> str | None:
    """Progress of unfinished work as a text: the last usable checkpoint or the number of items; None if there is none.

    work: the folder of unfinished work.
    """
    usable: list[int] = []
    for path in (*list_dir(work), *list_dir(work / "checkpoints")):
        step = usable_step(path.name, stage_key.last_step)
        if step is not None:
            usable.append(step)
    if usable:
        return f"step {max(usable)}"
    made = count_items(work)
    if not made:
        return None
    plural = "s" if made > 1 else ""
    return f"{made} item{plural} made"


def _why_not_cached(stage_key: StageKey, store: Store, run_name: str) -> Reason:
    """Reason for a key that is not in the store: what changed since the last run of this name, else since any run."""
    # imported here: a plan that finds everything cached starts without it
    from dbrun.plan.diff_keys import find_nearest_key, miss_reason

    stage = stage_key.stage.NAME
    last = list(last_key_documents(store, run_name, stage))
    if last:
        return miss_reason(stage_key, last)
    others = list(store.traces.recent(stage, RECENT_RESULTS))
    nearest = find_nearest_key(stage_key, [trace.document for trace in others])
    if nearest is None:
        return SimpleReason.NO_EARLIER_RESULT
    number, changes = nearest
    return NewRunName(run_with_key(store, stage, others[number].key), changes)


def _plan_stage(name: str, scope: Scope, plans: Mapping[str, StagePlan], read: frozenset[str]) -> StagePlan:
    """Plan of one stage. plans: those of the stages above; read: stages whose cached files are compared by digest."""
    above = [plans[n] for n in scope.selected_stages.needs[name]]
    blocked = _names_with_status(above, Status.BLOCKED)
    if blocked:
        return StagePlan(name, Status.BLOCKED, UpstreamBlocked(blocked))
    # without the digests of the stages above there is no key to look up
    waiting = _names_with_status(above, Status.RUN, Status.RESUME)
    if waiting:
        return _block_if_needed(StagePlan(name, Status.RUN, WaitsFor(waiting)), scope)
    revision = scope.resolved.unpinned_revision
    if name == BASE_STAGE and revision is not None:
        return _block_if_needed(StagePlan(name, Status.RUN, UnpinnedBase(revision)), scope)
    stage_key = scope.stage_key(name, {s.name: s.digest for s in above if s.digest})
    depth: CheckDepth = "digests" if name in read else "sizes"
    forced = name in scope.selected_stages.forced
    status, why, trace = cache_status(stage_key, scope.store, run_name=scope.recipe.name, forced=forced, depth=depth)
    if trace is not None:
        return StagePlan(name, status, why, stage_key.key, trace.digest)
    return _block_if_needed(StagePlan(name, status, why, stage_key.key), scope)


def _names_with_status(above: Iterable[StagePlan], *statuses: Status) -> tuple[str, ...]:
    return tuple(s.name for s in above if s.status in statuses)


def _block_if_needed(plan: StagePlan, scope: Scope) -> StagePlan:
    """The same plan, or a blocked one if the command line leaves the stage out or this machine cannot run it."""
    if plan.name not in scope.selected_stages.runnable:
        return replace(plan, status=Status.BLOCKED, reason=NotSelected(plan.reason))
    lacking = _missing_requirement(plan.name, scope)
    return replace(plan, status=Status.BLOCKED, reason=lacking) if lacking else plan


def _missing_requirement(name: str, scope: Scope) -> MissingRequirement | None:
    """First thing that this machine lacks for a stage; None if nothing is seen to be missing."""
    if name == BASE_STAGE:
        missing = scope.resolved.unavailable_reason
        return MissingRequirement(missing, scope.resolved.unavailable_fix) if missing else None
    if scope.elsewhere:
        return None
    stage = scope.stages[name]
    needed = stage.required_packages(stage.params(scope.recipe, scope.resolved.sources))
    for package in (*needed, *stage.optional_packages(scope.recipe)):
        if not package.is_installed:
            return MissingRequirement(f"the package {package.name} is not installed", package.install_command)
    if not stage.device_dependent:
        return None
    missing = device.why_unavailable(scope.numerics.device)
    if missing:
        return MissingRequirement(missing, "write `device: auto`, or run it on a machine that has one")
    if stage.multi_process:
        launch = scope.recipe.launch
        missing = device.why_too_few_gpus(scope.numerics.device, launch.processes // launch.machines)
        if missing:
            return MissingRequirement(missing, "lower `launch.processes`, or write `device: cpu`")
    # the recipe cannot be refused for these two: `device: auto` may mean a GPU on the next machine
    keys_with_fp16 = scope.recipe.keys_with_precision("fp16")
    if keys_with_fp16 and scope.numerics.device == "cpu":
        return MissingRequirement("fp16 needs a GPU, and this runs on the CPU",
                                  f"write `{keys_with_fp16[0]}: fp32` (or bf16)")
    if scope.recipe.train.tf32 and scope.numerics.device != "cuda":
        return MissingRequirement(f"TF32 needs an NVIDIA GPU, and this runs on {scope.numerics.device}",
                                  "write `tf32: false`")
    return None


def _refetch_base(plans: dict[str, StagePlan], scope: Scope) -> dict[str, StagePlan]:
    """Plans in which the base is fetched again, if stages run and it is gone from the Hub's cache.

    The result of `load` records only what the base was. It stays cached when the user clears the Hub's cache, but a
    stage that runs needs the files.
    """
    base = plans.get(BASE_STAGE)
    runs = any(s.status in (Status.RUN, Status.RESUME) for s in plans.values())
    if base is None or base.status is not Status.HIT or scope.resolved.sources.base.folder or not runs:
        return plans
    refetch = _block_if_needed(replace(base, status=Status.RUN, reason=SimpleReason.BASE_GONE), scope)
    # the digest of `load` is known already, so the keys of the other stages stand as planned
    if refetch.status is Status.RUN:
        return {**plans, BASE_STAGE: refetch}
    behind = {n: replace(s, status=Status.BLOCKED, reason=UpstreamBlocked((BASE_STAGE,)))
              for n, s in plans.items() if s.status is not Status.HIT}
    return {**plans, **behind, BASE_STAGE: refetch}
