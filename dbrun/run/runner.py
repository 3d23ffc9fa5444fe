"""How is a recipe carried out: stage after stage, each from the store or run, then delivered?"""

from __future__ import annotations

import hashlib
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbrun.errors import DbrunError, Interrupted
from dbrun.events import Emit, Note, RunFinished, RunStarted
from dbrun.plan.history import LastRun, last_run
from dbrun.plan.planner import ALL_STAGES, BASE_STAGE, Plan, Scope, make_scope, plan_scope
from dbrun.plan.preflight import preflight_error
from dbrun.plan.reasons import Reason, SimpleReason
from dbrun.plan.selection import Selection
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.text.spans import display_path
from dbrun.resolve.base import verified_base_folder
from dbrun.resolve.sources import ResolvedSources, pin_revision
from dbrun.run.outputs import check_target, deliver
from dbrun.run.redact import recipe_as_written
from dbrun.run.run_log import EventDispatcher, RunLog
from dbrun.run.run_metadata import export_metadata
from dbrun.run.signals import stop_signals
from dbrun.run.stage_runner import StageRunner
from dbrun.stages.base import Stage
from dbrun.stages.sources import Artifact
from dbrun.store.atomic import no_world_write
from dbrun.store.store import Store
from dbrun.store.traces import Trace
from dbrun.workers.launcher import WorkerGroup

__all__ = ["LastRun", "RunResult", "execute", "last_run"]


@dataclass(frozen=True)
class RunResult:
    """What a run did. folder: its record; outputs: the delivered folder."""

    run_id: str
    folder: Path
    ran: tuple[str, ...]
    reused: tuple[str, ...]
    artifacts: Mapping[str, Artifact]
    outputs: Path | None
    seconds: float


def execute(loaded: LoadedRecipe, resolved: ResolvedSources, store: Store, selection: Selection = ALL_STAGES, *,
            emit: Emit, overrides: Sequence[str] = (), outputs: Path = Path("outputs"),
            stages: Mapping[str, Stage[Any]] | None = None, worker_group: WorkerGroup | None = None) -> RunResult:
    """Do what a recipe asks for and is not done yet. Raises DbrunError; a failing stage's traceback is in the log.

    overrides: the words laid over the recipe, remembered for the next command; outputs: where exports go;
    worker_group: the processes that share the work, left out where this one works alone.
    """
    dispatch, worker_group = EventDispatcher(emit), worker_group or WorkerGroup()
    with stop_signals() as stop_signal, _report_failure(dispatch, stop_signal), no_world_write():
        try:
            store.prepare()
            known = pin_revision(loaded, resolved, store)
            scope = make_scope(loaded.recipe, known, store, selection, stages)
            plan = plan_scope(scope)
            if (stop := preflight_error(plan, shlex.join(_command_words(loaded, overrides)), store)) is not None:
                raise stop
            target = outputs / loaded.recipe.name if scope.delivering_stages else None
            if target is not None and plan.has_pending:
                check_target(target)
            dispatch.run_log = RunLog.begin(store, loaded, overrides)
            worker_group.log_folder = dispatch.run_log.folder
            run = _Run(scope, dispatch.run_log, dispatch, stop_signal, target, worker_group,
                       recipe_as_written(loaded, overrides))
            notes = (*resolved.notes, *(known.notes if known is not resolved else ()))
            return run.run(plan, display_path(loaded.path), notes)
        finally:
            worker_group.close()
            if dispatch.run_log is not None:
                dispatch.run_log.end()
            store.save_caches()


def _command_words(loaded: LoadedRecipe, overrides: Sequence[str]) -> tuple[str, ...]:
    """The recipe with its profiles and overrides as a command has them."""
    profiles = (word for name in loaded.profiles for word in ("--profile", name))
    return (display_path(loaded.path), *profiles, *overrides)


@contextmanager
def _report_failure(dispatch: EventDispatcher, stop_signal: Callable[[], int]) -> Iterator[None]:
    """Tell how a run failed, also the one that a second signal stopped at once."""
    try:
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted(stop_signal() or signal.SIGINT) from None
    except DbrunError as error:
        dispatch.run_failed(error)
        raise


@dataclass(frozen=True)
class _Run:
    scope: Scope
    run_log: RunLog
    dispatch: EventDispatcher
    stop_signal: Callable[[], int]
    target: Path | None
    worker_group: WorkerGroup
    recipe_as_written: Mapping[str, object]

    def run(self, plan: Plan, recipe: str, notes: Sequence[Note]) -> RunResult:
        """Every stage of the plan in order, then the delivery. recipe: what to call it; notes: what is said first."""
        began = time.monotonic()
        run_id = self.run_log.folder.name
        self.dispatch(RunStarted(recipe, self.scope.recipe.name, run_id, tuple(s.name for s in plan.stages)))
        for note in notes:
            self.dispatch(note)
        traces, ran = self._run_stages(plan)
        target = self.target
        delivering = self.scope.delivering_stages
        if target is not None and self._deliver(traces, target) and not set(delivering) & set(ran):
            self.dispatch(Note(delivering[-1], f"{target} written again"))
        seconds = round(time.monotonic() - began, 3)
        self.dispatch(RunFinished(len(ran), len(traces) - len(ran), seconds, str(target) if target else None))
        return RunResult(run_id, self.run_log.folder, tuple(ran), tuple(n for n in traces if n not in ran),
                         {n: self._artifact(t) for n, t in traces.items()}, target, seconds)

    def _run_stages(self, plan: Plan) -> tuple[dict[str, Trace], list[str]]:
        traces: dict[str, Trace] = {}
        ran: list[str] = []

        def base() -> Path | None:
            if BASE_STAGE not in traces:
                return self.scope.resolved.sources.base.folder
            return verified_base_folder(self.scope.resolved.sources.base, self._artifact(traces[BASE_STAGE]),
                                        self.scope.store)

        performer = StageRunner(self.scope, plan.stages_read, self.run_log, self.dispatch, self.stop_signal, base,
                                self.worker_group)
        for stage in plan.stages:
            stage_key = self.scope.stage_key(stage.name, {n: t.digest for n, t in traces.items()})
            inputs = {n: self._artifact(traces[n]) for n in self.scope.selected_stages.needs[stage.name]}
            why = self._rerun_reason(stage.name, stage.reason)
            traces[stage.name], done = performer.run_stage(stage_key, inputs, why)
            ran += [stage.name] if done else []
        return traces, ran

    def _rerun_reason(self, name: str, planned: Reason) -> Reason | None:
        """Why a stage runs although its result may be in the store."""
        if name in self.scope.selected_stages.forced:
            return SimpleReason.FORCED
        return planned if planned is SimpleReason.BASE_GONE else None

    def _deliver(self, traces: Mapping[str, Trace], target: Path) -> bool:
        delivering = self.scope.delivering_stages
        known = {**export_metadata(self.scope.recipe, traces, self.scope.stages, self.scope.numerics),
                 "written": self.recipe_as_written}
        place = hashlib.sha256(str(target.absolute()).encode()).hexdigest()[:32]

        def waiting(holder: str) -> None:
            self.dispatch(Note(delivering[-1], f"waiting for {holder}, which delivers to the same folder"))

        with self.scope.store.lock(f"deliver-{place}", f"delivering {target.name}", waiting, self.stop_signal):
            return deliver({name: traces[name] for name in delivering}, target, known, self.scope.store)

    def _artifact(self, trace: Trace) -> Artifact:
        return Artifact(self.scope.store.objects.path(trace.digest), trace.digest)
