"""A whole run: every stage in order, taken from the store or run, then delivery to `outputs/<name>/`."""

from __future__ import annotations

import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.errors import Cancelled, DbrunError, Interrupted
from dbrun.events import Emit, Note, RunFinished, RunStarted
from dbrun.naming import PROGRESS_FILE, REPORT_FILE
from dbrun.plan.history import LastRun, last_run
from dbrun.plan.losses import final_losses
from dbrun.plan.machine_advice import machine_advice
from dbrun.plan.planner import ALL_STAGES, BASE_STAGE, Plan, Scope, make_scope, plan_scope
from dbrun.plan.preflight import preflight_error
from dbrun.plan.reasons import Reason, SimpleReason
from dbrun.plan.scores import compare_with_expected, read_scores, summarise
from dbrun.plan.selection import Selection
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.text.spans import display_path
from dbrun.resolve.base import verified_base_folder
from dbrun.resolve.sources import ResolvedSources, pin_revision
from dbrun.run.outputs import Delivery, check_target, deliver, finish_interrupted, interrupted, lock_target
from dbrun.run.redact import recipe_as_written
from dbrun.run.report_writer import ReportRenderer, ReportWriter
from dbrun.run.run_log import EventDispatcher, RunLog
from dbrun.run.run_metadata import export_metadata, redacted_recipe
from dbrun.run.signals import StopFlag, stop_signum
from dbrun.run.stage_runner import StageRunner
from dbrun.stages.base import Stage
from dbrun.stages.sources import Artifact
from dbrun.stages.support.resident import ResidentBase
from dbrun.stages.support.sample_spec import sample_spec
from dbrun.store.atomic import no_world_write
from dbrun.store.store import Store
from dbrun.store.traces import Trace
from dbrun.workers.launcher import WorkerGroup

if TYPE_CHECKING:
    from dbrun.plan.estimate import Estimate

__all__ = ["LastRun", "RunResult", "execute", "last_run"]
TRAINING_STAGE = "train"
"""Name of the stage whose losses a run reports at its end."""
EVALUATING_STAGE = "evaluate"
"""Name of the stage whose scores a run reports at its end, and compares with what its recipe expects."""


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    folder: the run's record; ran, reused: names of stages; artifacts: stage → its artifact;
    outputs: the folder delivered to, None if the run delivers nothing; finished: the run's last event.
    """

    folder: Path
    ran: tuple[str, ...]
    reused: tuple[str, ...]
    artifacts: Mapping[str, Artifact]
    outputs: Path | None
    finished: RunFinished

    @property
    def run_id(self) -> str:
        """Name of the run's record."""
        return self.finished.run_id

    @property
    def seconds(self) -> float:
        """Wall time."""
        return self.finished.seconds


def execute(loaded: LoadedRecipe, resolved: ResolvedSources, store: Store, selection: Selection = ALL_STAGES, *,
            emit: Emit, overrides: Sequence[str] = (), outputs: Path = Path("outputs"),
            stages: Mapping[str, Stage[Any]] | None = None, worker_group: WorkerGroup | None = None,
             cancel: threading.Event | None = None, resident: ResidentBase | None = None,
             render_report: ReportRenderer | None = None) -> RunResult:
    """Run the stages of a recipe that are not in the store yet, and deliver the export. Raises DbrunError.

    The traceback of a failing stage is in the run's log.
    overrides: the `key=value` words laid over the recipe, remembered for the next command;
    outputs: the folder that holds a folder for each export; stages: all stages, the built-in ones by default;
    worker_group: the processes that share the work, by default this one alone;
    cancel: stops the run after its next checkpoint when it is set; Cancelled is raised then, and for the flag of
    `stop_signals` Interrupted; resident: components that earlier runs have left in memory, none by default;
    render_report: draws the run's report.html, which is delivered with the export; None for no report.
    """
    dispatch = EventDispatcher(emit)
    worker_group = worker_group or WorkerGroup()

    def stop_signal() -> int:
        return stop_signum(cancel)

    with _report_failure(dispatch, cancel), no_world_write():
        try:
            store.prepare()
            _connect_remote(store, dispatch, stop_signal)
            pinned = pin_revision(loaded, resolved, store)
            scope = make_scope(loaded.recipe, pinned, store, selection, stages)
            plan = plan_scope(scope)

            # Refuse early: what would fail after hours of work must fail now
            command = shlex.join(_command_words(loaded, overrides))
            stop = preflight_error(plan, command, store)
            if stop is not None:
                raise stop
            target = outputs / loaded.recipe.name if scope.delivering_stages else None
            if target is not None and plan.has_pending:
                check_target(target)

            # From here on a crash leaves a run on record
            dispatch.run_log = RunLog.begin(store, loaded, overrides)
            worker_group.log_folder = dispatch.run_log.folder
            report, known = _report_time_left(dispatch, scope, plan)
            if target is not None and plan.has_pending:
                report = _show_progress(report, scope, dispatch.run_log, target)
            written = recipe_as_written(loaded, overrides)
            writer = ReportWriter(scope, plan, dispatch.run_log, written, known, render_report, dispatch)
            if plan.has_pending:
                writer.save_facts()
            run = _Run(scope, dispatch.run_log, report, stop_signal, target, worker_group, written, writer,
                       resident or ResidentBase())
            new_notes = pinned.notes if pinned is not resolved else ()
            notes = (*resolved.notes, *new_notes, *machine_advice(scope, plan, known))
            return run.run(plan, display_path(loaded.path), notes)
        finally:
            worker_group.close()
            if dispatch.run_log is not None:
                dispatch.run_log.end()
            store.save_caches()


def _connect_remote(store: Store, emit: Emit, stop_signal: Callable[[], int]) -> None:
    """Connect the store's remote level, if it has one; what it has to tell becomes notes of the run."""
    if store.remote is None:
        return

    def tell(stage: str, text: str, level: str) -> None:
        emit(Note(stage, text, level))

    store.remote.connect(tell, stop_signal)


def _report_time_left(emit: Emit, scope: Scope, plan: Plan) -> tuple[Emit, Mapping[str, Estimate]]:
    """A listener that adds the time left to the events of a run, and the estimate of each stage that is to run."""
    if not plan.has_pending:
        return emit, {}
    # imported here: a run that finds everything in the store starts without them
    from dbrun.plan.estimate import estimate_stages
    from dbrun.run.time_left import report_time_left

    known = estimate_stages(scope, plan)
    return report_time_left(emit, scope, plan, known), known


def _show_progress(emit: Emit, scope: Scope, run_log: RunLog, target: Path) -> Emit:
    """A listener that writes progress.png into the delivered folder; the same one for a run without previews."""
    prompts = _preview_prompts(scope)
    if not prompts or scope.store.read_only:
        return emit
    # imported here: a run that finds everything in the store starts without it
    from dbrun.run.progress_picture import ProgressPicture

    return ProgressPicture(emit, scope.store, run_log.folder, target, prompts, redacted_recipe(scope.recipe))


def _preview_prompts(scope: Scope) -> tuple[str, ...]:
    """The prompts of the previews; () for a recipe without them."""
    spec = sample_spec(scope.recipe, scope.resolved.sources)
    return spec.prompts if spec else ()


def _command_words(loaded: LoadedRecipe, overrides: Sequence[str]) -> tuple[str, ...]:
    """The recipe, profiles and overrides as words of a command line."""
    words = [display_path(loaded.path)]
    for name in loaded.profiles:
        words += ["--profile", name]
    return (*words, *overrides)


@contextmanager
def _report_failure(dispatch: EventDispatcher, cancel: threading.Event | None) -> Iterator[None]:
    """Context manager: emit RunFailed for every DbrunError, and for a KeyboardInterrupt, which goes on as it is.

    An Interrupted becomes Cancelled where no signal has set the flag.
    """
    try:
        try:
            yield
        except Interrupted as error:
            if isinstance(cancel, StopFlag):
                raise
            raise Cancelled from error
    except DbrunError as error:
        dispatch.run_failed(error)
        raise
    except KeyboardInterrupt:
        dispatch.run_failed(Interrupted(stop_signum(cancel) or signal.SIGINT))
        raise


@dataclass(frozen=True)
class _Run:
    scope: Scope
    run_log: RunLog
    dispatch: Emit
    stop_signal: Callable[[], int]
    target: Path | None
    worker_group: WorkerGroup
    recipe_as_written: Mapping[str, object]
    report_writer: ReportWriter
    resident: ResidentBase

    def run(self, plan: Plan, recipe: str, notes: Sequence[Note]) -> RunResult:
        """Run every stage of the plan in order, then deliver. recipe: its path to show; notes: emitted first."""
        began = time.monotonic()
        run_id = self.run_log.folder.name
        self.dispatch(RunStarted(recipe, self.scope.recipe.name, run_id, tuple(s.name for s in plan.stages)))
        for note in notes:
            self.dispatch(note)
        target = self.target
        if target is not None:
            self._finish_interrupted(target)
        traces, ran = self._run_stages(plan)
        self._use_remote([trace for name, trace in traces.items() if name not in ran])
        delivering = self.scope.delivering_stages
        # Worth a note only if no stage ran: then the user or another recipe had changed the folder.
        has_delivered = target is not None and self._deliver(traces, target)
        if has_delivered and not set(delivering) & set(ran):
            self.dispatch(Note(delivering[-1], f"{target} written again"))
        seconds = round(time.monotonic() - began, 3)
        reused = tuple(name for name in traces if name not in ran)
        artifacts = {name: self._artifact(trace) for name, trace in traces.items()}
        trained = artifacts.get(TRAINING_STAGE)
        evaluated = artifacts.get(EVALUATING_STAGE)
        scores = read_scores(evaluated.path) if evaluated else {}
        outcomes = compare_with_expected(self.scope.recipe, scores) if evaluated else ()
        finished = RunFinished(len(ran), len(reused), seconds, str(target) if target else None, run_id,
                               self._delivery(traces).sorted_names, final_losses(trained.path) if trained else {},
                               summarise(scores), outcomes)
        self.dispatch(finished)
        if not ran and not has_delivered:
            self.run_log.mark_noop()
        return RunResult(self.run_log.folder, tuple(ran), reused, artifacts, target, finished)

    def _run_stages(self, plan: Plan) -> tuple[dict[str, Trace], list[str]]:
        """The trace of each stage, and the names of those that ran."""
        traces: dict[str, Trace] = {}
        ran: list[str] = []

        def base() -> Path | None:
            if BASE_STAGE not in traces:
                return self.scope.resolved.sources.base.folder
            return verified_base_folder(self.scope.resolved.sources.base, self._artifact(traces[BASE_STAGE]),
                                        self.scope.store)

        stage_runner = StageRunner(self.scope, plan.stages_read, self.run_log, self.dispatch, self.stop_signal, base,
                                   self.worker_group, self.resident)
        if not plan.has_pending:
            # all at once, because each call writes two files
            planned = self.scope.stage_keys.values()
            self.run_log.save_stage_keys({one.stage.NAME: (one.key, one.resume_key) for one in planned})
        for stage in plan.stages:
            # Not the plan's key: a plan cannot know the digests of what was still to run.
            digests = {name: trace.digest for name, trace in traces.items()}
            stage_key = self.scope.stage_key(stage.name, digests)
            inputs = {name: self._artifact(traces[name]) for name in self.scope.selected_stages.needs[stage.name]}
            why = self._rerun_reason(stage.name, stage.reason)
            traces[stage.name], has_run = stage_runner.run_stage(stage_key, inputs, why)
            if has_run:
                ran.append(stage.name)
        return traces, ran

    def _use_remote(self, reused: Iterable[Trace]) -> None:
        """Fetch the training, whose losses are shown; publish what only this store has, such as results of last year.
        """
        if self.scope.store.remote is None:
            return
        for trace in reused:
            if trace.stage == TRAINING_STAGE:
                self.scope.store.look_up(trace.stage, trace.key, "digests")
            self.scope.store.share(trace)

    def _rerun_reason(self, name: str, planned: Reason) -> Reason | None:
        """The reason to run a stage even if its result is in the store, or None."""
        if name in self.scope.selected_stages.forced:
            return SimpleReason.FORCED
        return planned if planned is SimpleReason.BASE_GONE else None

    def _deliver(self, traces: Mapping[str, Trace], target: Path) -> bool:
        """Deliver the artifacts of the delivering stages to target; return whether anything was written."""
        facts = {**export_metadata(self.scope.recipe, traces, self.scope.stages, self.scope.numerics),
                 "written": self.recipe_as_written}
        with self._lock_target(target):
            return deliver(self._delivery(traces), target, facts, self.scope.store, self._note_delivery)

    def _delivery(self, traces: Mapping[str, Trace]) -> Delivery:
        delivering = {name: traces[name] for name in self.scope.delivering_stages}
        extras: dict[str, Callable[[], bytes | None]] = {}
        if self.report_writer.is_active:
            extras[REPORT_FILE] = self.report_writer.render
        if TRAINING_STAGE in traces:
            extras[PROGRESS_FILE] = partial(self._progress_picture, traces[TRAINING_STAGE].key)
        return Delivery(delivering, self.scope.stages, self.scope.recipe.name, extras)

    def _progress_picture(self, train_key: str) -> bytes | None:
        """The previews of the training as one PNG; None without any."""
        from dbrun.run.progress_picture import strip_png
        from dbrun.run.training_previews import find_previews

        prompts = _preview_prompts(self.scope)
        folder, prompts = find_previews(self.scope.store, self.run_log.folder, train_key, prompts)
        try:
            return strip_png(folder, prompts)
        # a sheet that cannot be read costs this picture, not the run
        except (OSError, ValueError, SyntaxError):
            return None

    def _finish_interrupted(self, target: Path) -> None:
        """Finish killed deliveries to target, before the hours that the stages may take."""
        if any(interrupted(target)):
            with self._lock_target(target):
                finish_interrupted(target, self.scope.store, self._note_delivery)

    @contextmanager
    def _lock_target(self, target: Path) -> Iterator[None]:
        """Context manager: deliver to target alone, as far as the file system has locks."""
        def waiting(holder: str) -> None:
            stage = self.scope.delivering_stages[-1]
            self.dispatch(Note(stage, f"waiting for {holder}, which delivers to the same folder"))

        with lock_target(self.scope.store, target, waiting, self.stop_signal):
            yield

    def _note_delivery(self, text: str) -> None:
        self.dispatch(Note(self.scope.delivering_stages[-1], text, "warning"))

    def _artifact(self, trace: Trace) -> Artifact:
        return Artifact(self.scope.store.objects.path(trace.digest), trace.digest)
