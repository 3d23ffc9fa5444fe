"""What will be done, and why? Nothing is run and nothing is written to find out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from dbrun.plan import device
from dbrun.plan.cache_key import Ask, ask
from dbrun.plan.diff_keys import nearest, nearest_of
from dbrun.plan.history import last_documents, run_with
from dbrun.plan.reasons import After, Behind, Damaged, Lacking, New, NotChosen, Reason, Resumes, Simply, Unpinned
from dbrun.plan.selection import Chosen, Selection, choose, graph
from dbrun.recipe.schema.model import Recipe
from dbrun.resolve.sources import Located
from dbrun.stages.base import Numerics, Stage
from dbrun.stages.base import stages as all_stages
from dbrun.store.atomic import entries
from dbrun.store.items import items_made
from dbrun.store.store import Damage, Depth, Store
from dbrun.store.traces import Trace

ALL = Selection()
BASE_STAGE = "load"
"""The stage that stands for the base; the others reach the base only through it."""
EXPORT_STAGE = "export"
"""The stage whose artifact is delivered."""
CHECKPOINT = re.compile(r"step-(\d+)\b")
RECENT = 200
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
    """What becomes of each stage, in order. read: those whose results are used, and so were compared byte for byte."""

    stages: tuple[StagePlan, ...]
    read: frozenset[str] = frozenset()

    @property
    def pending(self) -> bool:
        """Whether anything is left to do."""
        return any(s.status is not Status.HIT for s in self.stages)

    @property
    def blocked(self) -> tuple[StagePlan, ...]:
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
    located: Located
    store: Store
    stages: Mapping[str, Stage[Any]]
    chosen: Chosen
    numerics: Numerics
    asked: dict[tuple[str, ...], Ask] = field(default_factory=dict)
    """The questions so far, by stage and upstream digests: with many pictures each takes a while to write down."""

    def ask(self, name: str, digests: Mapping[str, str]) -> Ask:
        """The question to a stage whose upstream digests are known."""
        stage = self.stages[name]
        inputs = {n: digests[n] for n in self.chosen.needs[name]}
        known = (name, *inputs.values())
        if known not in self.asked:
            params = stage.params(self.recipe, self.located.sources)
            self.asked[known] = ask(stage, params, inputs, self.numerics)
        return self.asked[known]


def scope(recipe: Recipe, located: Located, store: Store, selection: Selection,
          stages: Mapping[str, Stage[Any]] | None) -> Scope:
    """Resolve a selection and the device. Raises UsageError."""
    stages = all_stages() if stages is None else stages
    chosen = choose(graph(stages, recipe), selection)
    return Scope(recipe, located, store, stages, chosen, device.numerics(recipe.device, recipe.threads))


def make_plan(recipe: Recipe, located: Located, store: Store, selection: Selection = ALL, *,
              stages: Mapping[str, Stage[Any]] | None = None) -> Plan:
    """Compare every chosen stage with the store. stages: other than those of the package, for tests."""
    return plan_of(scope(recipe, located, store, selection, stages))


def plan_of(within: Scope) -> Plan:
    """The plan of a scope."""
    read, needs = frozenset({EXPORT_STAGE}), within.chosen.needs
    while True:
        plans: dict[str, StagePlan] = {}
        for name in needs:
            plans[name] = _planned(name, within, plans, read)
        runs = [name for name, plan in plans.items() if plan.status is not Status.HIT]
        more = read.union(runs, *(needs[name] for name in runs))
        trusted = [name for name in more - read if plans[name].status is Status.HIT]
        read = more
        if not trusted:
            return Plan(tuple(_with_base(plans, within).values()), read)


def judge(question: Ask, store: Store, *, run_name: str, forced: bool,
          depth: Depth) -> tuple[Status, Reason, Trace | None]:
    """Whether a stage's result is in the store; if not, why not, and whether work goes on. depth: see `Store.look`."""
    found = store.look(question.stage.NAME, question.key, depth)
    if isinstance(found, Trace) and not forced:
        return Status.HIT, Simply.CACHED, found
    if forced:
        return Status.RUN, Simply.FORCED, None
    why = Damaged(found.lines) if isinstance(found, Damage) else _why(question, store, run_name)
    done = progress(question, store.work(question.lineage))
    return (Status.RESUME, Resumes(why, done), None) if done else (Status.RUN, why, None)


def progress(question: Ask, work: Path) -> str | None:
    """How far unfinished work came: the last usable checkpoint, or the items made."""
    limits = [getattr(question.params, name) for name in question.stage.lengthens(question.params)]
    most = min((n for n in limits if isinstance(n, int)), default=None)
    found = [CHECKPOINT.match(p.name) for folder in (work, work / "checkpoints") for p in entries(folder)]
    usable = [int(match[1]) for match in found if match and (most is None or int(match[1]) <= most)]
    if usable:
        return f"step {max(usable)}"
    made = items_made(work)
    return f"{made} item{'s' if made > 1 else ''} made" if made else None


def _why(question: Ask, store: Store, run_name: str) -> Reason:
    stage = question.stage.NAME
    if last := list(last_documents(store, run_name, stage)):
        return nearest(question, last)
    others = list(store.traces.recent(stage, RECENT))
    found = nearest_of(question, [trace.document for trace in others])
    return New(run_with(store, stage, others[found[0]].key), found[1]) if found else Simply.NO_EARLIER


def _planned(name: str, within: Scope, plans: Mapping[str, StagePlan], read: frozenset[str]) -> StagePlan:
    above = [plans[n] for n in within.chosen.needs[name]]
    if behind := _named(above, Status.BLOCKED):
        return StagePlan(name, Status.BLOCKED, Behind(behind))
    if waiting := _named(above, Status.RUN, Status.RESUME):
        return _allowed(StagePlan(name, Status.RUN, After(waiting)), within)
    if name == BASE_STAGE and within.located.revision is not None:
        return _allowed(StagePlan(name, Status.RUN, Unpinned(within.located.revision)), within)
    question = within.ask(name, {s.name: s.digest for s in above if s.digest})
    status, why, trace = judge(question, within.store, run_name=within.recipe.name,
                               forced=name in within.chosen.forced, depth="digests" if name in read else "sizes")
    if trace is not None:
        return StagePlan(name, status, why, question.key, trace.digest)
    return _allowed(StagePlan(name, status, why, question.key), within)


def _named(above: Iterable[StagePlan], *statuses: Status) -> tuple[str, ...]:
    return tuple(s.name for s in above if s.status in statuses)


def _allowed(plan: StagePlan, within: Scope) -> StagePlan:
    """The plan of a stage that would run, blocked where it may or can not."""
    if plan.name not in within.chosen.runs:
        return replace(plan, status=Status.BLOCKED, reason=NotChosen(plan.reason))
    lacking = _lacking(plan.name, within)
    return replace(plan, status=Status.BLOCKED, reason=lacking) if lacking else plan


def _lacking(name: str, within: Scope) -> Lacking | None:
    """What this machine lacks for a stage."""
    if name == BASE_STAGE:
        missing = within.located.out_of_reach
        return Lacking(missing, "unset HF_HUB_OFFLINE, or name a base that is here") if missing else None
    stage = within.stages[name]
    needed = stage.packages(stage.params(within.recipe, within.located.sources))
    for package in (*needed, *stage.wishes(within.recipe)):
        if not package.installed:
            return Lacking(f"the package {package.name} is not installed", package.command)
    if not stage.computes:
        return None
    if missing := device.lack(within.numerics.device):
        return Lacking(missing, "write `device: auto`, or run it where there is one")
    launch = within.recipe.launch
    if within.stages[name].shared and (
            missing := device.short_of(within.numerics.device, launch.processes // launch.machines)):
        return Lacking(missing, "lower `launch.processes`, or write `device: cpu`")
    if within.recipe.train.precision == "fp16" and within.numerics.device == "cpu":
        return Lacking("fp16 needs a GPU, and this runs on the CPU", "write `train.precision: fp32` (or bf16)")
    if within.recipe.train.tf32 and within.numerics.device != "cuda":
        return Lacking(f"TF32 needs an NVIDIA GPU, and this runs on {within.numerics.device}", "write `tf32: false`")
    return None


def _with_base(plans: dict[str, StagePlan], within: Scope) -> dict[str, StagePlan]:
    """Fetch the base again where other stages run and it is gone."""
    base = plans.get(BASE_STAGE)
    runs = any(s.status in (Status.RUN, Status.RESUME) for s in plans.values())
    if base is None or base.status is not Status.HIT or within.located.sources.base.folder or not runs:
        return plans
    again = _allowed(replace(base, status=Status.RUN, reason=Simply.BASE_GONE), within)
    if again.status is Status.RUN:
        return {**plans, BASE_STAGE: again}
    behind = {n: replace(s, status=Status.BLOCKED, reason=Behind((BASE_STAGE,)))
              for n, s in plans.items() if s.status is not Status.HIT}
    return {**plans, **behind, BASE_STAGE: again}
