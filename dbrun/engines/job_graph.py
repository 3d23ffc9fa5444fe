"""The graph of jobs of many runs: each piece of work once, and one job for all that only one run needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dbrun.api.request import RecipeRequest
from dbrun.engines.base import Job, JobStatus
from dbrun.plan.estimate import EstimateCache, estimate_named
from dbrun.plan.memory import known_count
from dbrun.plan.planner import BASE_STAGE, Plan, Scope, StagePlan, Status
from dbrun.store.canonical import JsonValue, digest

ID_DIGITS = 12
"""Hex digits of the digest in a job's id."""


@dataclass(frozen=True)
class JobGraph:
    """Jobs in an order in which they can run. runs: number of runs that were planned, those without a job included."""

    jobs: tuple[Job, ...]
    runs: int

    def to_json(self) -> dict[str, object]:
        """The graph as plain data."""
        return {"format_version": 1, "runs": self.runs, "jobs": [job.to_json() for job in self.jobs]}


@dataclass
class _Piece:
    """Work of one stage that has to be done. id: equal for equal work; lineage: equal for work that differs only in its
    length; above: ids of the work that it needs; runs: indices of the runs that need it; the rest as in `Job`."""

    id: str
    lineage: str
    stage: str
    status: Status
    above: tuple[str, ...]
    on_device: bool
    gpus: int
    memory: int | None
    seconds: float | None
    runs: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _PlannedRun:
    """A run, without its scope, which would take 50 kB. pieces: ids of its work that has to be done; work: id of all
    its work; base: id of the work of `load`; waits: whether it has anything to do."""

    request: RecipeRequest
    name: str
    pieces: tuple[str, ...]
    work: str
    base: str
    waits: bool


class JobGraphBuilder:
    """Builder of a JobGraph, run by run. outputs: folder for the delivered folders."""

    def __init__(self, outputs: Path) -> None:
        self._outputs = outputs
        self._pieces: dict[str, _Piece] = {}
        self._runs: list[_PlannedRun] = []
        # a run with the same work as an earlier one: its index → that of the earlier one
        self._twins: dict[int, int] = {}
        self._first_with: dict[str, int] = {}
        self._estimates = EstimateCache()

    def add(self, request: RecipeRequest, scope: Scope, plan: Plan) -> None:
        """Add a planned run."""
        ids = _work_ids(scope, plan)
        pending = [stage for stage in plan.stages if stage.status is not Status.HIT]
        number = len(self._runs)
        work = digest(dict(ids))
        name = scope.recipe.name
        if self._first_with.setdefault(work, number) != number:
            self._twins[number] = self._first_with[work]
        else:
            self._add_pieces(number, scope, plan, pending, ids)
        delivers = bool(scope.delivering_stages) and not (self._outputs / name).exists()
        self._runs.append(_PlannedRun(request, name, tuple(ids[stage.name] for stage in pending), work,
                                      ids.get(BASE_STAGE, work), bool(pending) or delivers))

    def _add_pieces(self, number: int, scope: Scope, plan: Plan, pending: Sequence[StagePlan],
                    ids: Mapping[str, str]) -> None:
        new = [stage for stage in pending if ids[stage.name] not in self._pieces]
        estimates = estimate_named(scope, plan, [stage.name for stage in new], self._estimates)
        for stage, estimate in zip(new, estimates, strict=True):
            counted = known_count(scope, stage.name)
            memory = counted.total if counted else None
            if estimate is not None and estimate.memory is not None:
                memory = max(memory or 0, estimate.memory)
            above = tuple(ids[name] for name in scope.selected_stages.needs[stage.name])
            on_device = scope.stages[stage.name].device_dependent
            piece = ids[stage.name]
            seconds = estimate.seconds if estimate else None
            self._pieces[piece] = _Piece(piece, _lineage(scope, stage.name, ids), stage.name, stage.status, above,
                                         on_device, _gpus(scope, stage.name), memory, seconds)
        for stage in pending:
            self._pieces[ids[stage.name]].runs.append(number)

    def finish(self) -> JobGraph:
        """The graph of all runs that were added."""
        self._order_lineages()
        job_of: dict[str, str] = {}
        shared = self._shared_groups()
        for group in shared:
            job_of.update((piece.id, _shared_id(group)) for piece in group)
        own_ids = {number: _run_id(run) for number, run in enumerate(self._runs) if run.waits}
        for number, run in enumerate(self._runs):
            if number not in self._twins:
                for piece in run.pieces:
                    job_of.setdefault(piece, own_ids[number])
        jobs = [self._shared_job(group, job_of) for group in shared]
        jobs += [self._run_job(number, job_of, own_ids) for number in own_ids]
        return JobGraph(tuple(jobs), len(self._runs))

    def _order_lineages(self) -> None:
        """Let work wait for work that differs from it only in its length, such as a sweep of `train.steps`.

        The two share their checkpoints, and a lock: at the same time, one would hold its GPU and wait.
        """
        # jobs of shared work come before those of runs, so that the two kinds are ordered apart
        last: dict[tuple[bool, str], str] = {}
        for piece in self._pieces.values():
            kind = len(piece.runs) > 1, piece.lineage
            if kind in last:
                piece.above = (*piece.above, last[kind])
            last[kind] = piece.id

    def _shared_groups(self) -> list[list[_Piece]]:
        """Pieces that several runs need, in an order in which they can be done.

        Those of the same runs that compute on no device take seconds, most of them for the start of a process: such a
        piece joins the one that it needs.
        """
        groups: list[list[_Piece]] = []
        # id of the last piece of a group that computes on no device → the group
        open_groups: dict[str, list[_Piece]] = {}
        # earlier pieces come first: a run's stages were added in their order
        for piece in self._pieces.values():
            if len(piece.runs) == 1:
                continue
            group: list[_Piece] = []
            if not piece.on_device:
                joinable = [open_groups[above] for above in piece.above if above in open_groups]
                group = next((one for one in joinable if one[-1].runs == piece.runs), group)
                open_groups[piece.id] = group
            if group:
                del open_groups[group[-1].id]
            else:
                groups.append(group)
            group.append(piece)
        return groups

    def _shared_job(self, group: Sequence[_Piece], job_of: Mapping[str, str]) -> Job:
        first = self._runs[group[0].runs[0]]
        runs = tuple(self._runs[number].name for number in group[0].runs)
        return self._job(_shared_id(group), group, runs, first, group[-1].stage, job_of)

    def _run_job(self, number: int, job_of: Mapping[str, str], own_ids: Mapping[int, str]) -> Job:
        run = self._runs[number]
        if number not in self._twins:
            return self._job(own_ids[number], [self._pieces[piece] for piece in run.pieces], (run.name,), run, None,
                             job_of)
        # all its work is that of the earlier run; what is left is its delivery
        needs = tuple(dict.fromkeys(job_of[piece] for piece in run.pieces))
        return Job(own_ids[number], (), (run.name,), JobStatus.DELIVER, needs, 0, None, None, run.request, None,
                   self._outputs, run.base)

    def _job(self, job_id: str, pieces: Sequence[_Piece], runs: tuple[str, ...], run: _PlannedRun, until: str | None,
             job_of: Mapping[str, str]) -> Job:
        """The job of the pieces that are its own; `pieces` of a run also holds those that it shares with others."""
        own = [piece for piece in pieces if job_of[piece.id] == job_id]
        # the jobs of a run's shared pieces, and those of what its own pieces are made from
        needed = dict.fromkeys(job_of[piece.id] for piece in pieces)
        for piece in own:
            needed.update((job_of[above], None) for above in piece.above if above in job_of)
        needs = tuple(name for name in needed if name != job_id)
        seconds = [piece.seconds for piece in own]
        known = [one for one in seconds if one is not None]
        return Job(job_id, tuple(piece.stage for piece in own), runs, _status(own), needs,
                   max((piece.gpus for piece in own), default=0),
                   max((piece.memory for piece in own if piece.memory is not None), default=None),
                   round(sum(known), 1) if known and len(known) == len(seconds) else None, run.request, until,
                   self._outputs, run.base)


def _work_ids(scope: Scope, plan: Plan) -> dict[str, str]:
    """Stage → id of its work: its key with the ids of the stages above in the place of their digests.

    So it is known before anything ran, and stays the same when some of it has run.
    """
    known = {name: key for (name, *_), key in scope.stage_keys.items()}
    ids: dict[str, str] = {}
    for stage in plan.stages:
        inputs = {name: ids[name] for name in scope.selected_stages.needs[stage.name]}
        stage_key = known.get(stage.name) or scope.stage_key(stage.name, inputs)
        ids[stage.name] = digest({**stage_key.document, "inputs": dict(inputs)})
    return ids


def _lineage(scope: Scope, name: str, ids: Mapping[str, str]) -> str:
    """Digest of a stage's work without the params that only lengthen it."""
    stage = scope.stages[name]
    stage_key = next(key for (other, *_), key in scope.stage_keys.items() if other == name)
    extendable = stage.extendable_params(stage_key.params)
    if not extendable:
        return ids[name]
    params = stage_key.document["params"]
    assert isinstance(params, dict), "params are a dataclass"
    fixed = {key: value for key, value in params.items() if key not in extendable}
    inputs: dict[str, JsonValue] = {above: ids[above] for above in scope.selected_stages.needs[name]}
    return digest({**stage_key.document, "params": fixed, "inputs": inputs})


def _gpus(scope: Scope, name: str) -> int:
    stage = scope.stages[name]
    if scope.numerics.device != "cuda" or not stage.device_dependent:
        return 0
    return scope.recipe.launch.processes if stage.multi_process else 1


def _status(pieces: Sequence[_Piece]) -> JobStatus:
    statuses = {piece.status for piece in pieces}
    if Status.BLOCKED in statuses:
        return JobStatus.BLOCKED
    if Status.RESUME in statuses:
        return JobStatus.RESUME
    return JobStatus.RUN if pieces else JobStatus.DELIVER


def _shared_id(group: Sequence[_Piece]) -> str:
    # the last piece's: the id stays the same when those before it have run
    return f"{group[-1].stage}-{group[-1].id[:ID_DIGITS]}"


def _run_id(run: _PlannedRun) -> str:
    return f"{run.name}-{digest([run.name, run.work])[:ID_DIGITS]}"
