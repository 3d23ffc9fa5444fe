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
from dbrun.plan.planner import ALL, BASE_STAGE, EXPORT_STAGE, Plan, Scope, plan_of, scope
from dbrun.plan.preflight import what_stops
from dbrun.plan.reasons import Reason, Simply
from dbrun.plan.selection import Selection
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.text.spans import shown
from dbrun.resolve.base import base_folder
from dbrun.resolve.sources import Located, pinned
from dbrun.run.outputs import check_place, deliver
from dbrun.run.redact import written
from dbrun.run.run_log import Record
from dbrun.run.run_metadata import facts
from dbrun.run.signals import listening
from dbrun.run.stage_runner import Performer
from dbrun.run.telling import Telling
from dbrun.stages.base import Artifact, Stage
from dbrun.store.atomic import closed_to_strangers
from dbrun.store.store import Store
from dbrun.store.traces import Trace
from dbrun.workers.launcher import Crew

__all__ = ["LastRun", "Outcome", "execute", "last_run"]


@dataclass(frozen=True)
class Outcome:
    """What a run did. folder: its record; outputs: the delivered folder."""

    run_id: str
    folder: Path
    ran: tuple[str, ...]
    reused: tuple[str, ...]
    artifacts: Mapping[str, Artifact]
    outputs: Path | None
    seconds: float


def execute(loaded: LoadedRecipe, located: Located, store: Store, selection: Selection = ALL, *, emit: Emit,
            overrides: Sequence[str] = (), outputs: Path = Path("outputs"),
            stages: Mapping[str, Stage[Any]] | None = None, crew: Crew | None = None) -> Outcome:
    """Do what a recipe asks for and is not done yet. Raises DbrunError; a failing stage's traceback is in the log.

    overrides: the words laid over the recipe, remembered for the next command; outputs: where exports go;
    crew: the processes that share the work, left out where this one works alone.
    """
    tell, crew = Telling(emit), crew or Crew()
    with listening() as stopping, _told(tell, stopping), closed_to_strangers():
        try:
            store.prepare()
            known = pinned(loaded, located, store)
            within = scope(loaded.recipe, known, store, selection, stages)
            plan = plan_of(within)
            if (stop := what_stops(plan, shlex.join(_typed(loaded, overrides)), store)) is not None:
                raise stop
            target = outputs / loaded.recipe.name if EXPORT_STAGE in within.chosen.needs else None
            if target is not None and plan.pending:
                check_place(target)
            tell.record = Record.begin(store, loaded, overrides)
            crew.logs = tell.record.folder
            run = _Run(within, tell.record, tell, stopping, target, crew, written(loaded, overrides))
            notes = (*located.notes, *(known.notes if known is not located else ()))
            return run.go(plan, shown(loaded.path), notes)
        finally:
            crew.close()
            if tell.record is not None:
                tell.record.end()
            store.save_tables()


def _typed(loaded: LoadedRecipe, overrides: Sequence[str]) -> tuple[str, ...]:
    """The recipe with its profiles and overrides as a command has them."""
    profiles = (word for name in loaded.profiles for word in ("--profile", name))
    return (shown(loaded.path), *profiles, *overrides)


@contextmanager
def _told(tell: Telling, stopping: Callable[[], int]) -> Iterator[None]:
    """Tell how a run failed, also the one that a second signal stopped at once."""
    try:
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted(stopping() or signal.SIGINT) from None
    except DbrunError as error:
        tell.failed(error)
        raise


@dataclass(frozen=True)
class _Run:
    within: Scope
    record: Record
    tell: Telling
    stopping: Callable[[], int]
    target: Path | None
    crew: Crew
    written: Mapping[str, object]

    def go(self, plan: Plan, recipe: str, notes: Sequence[Note]) -> Outcome:
        """Every stage of the plan in order, then the delivery. recipe: what to call it; notes: what is said first."""
        began = time.monotonic()
        run_id = self.record.folder.name
        self.tell(RunStarted(recipe, self.within.recipe.name, run_id, tuple(s.name for s in plan.stages)))
        for note in notes:
            self.tell(note)
        traces, ran = self._stages(plan)
        target = self.target
        if target is not None and self._deliver(traces, target) and EXPORT_STAGE not in ran:
            self.tell(Note(EXPORT_STAGE, f"{target} written again"))
        seconds = round(time.monotonic() - began, 3)
        self.tell(RunFinished(len(ran), len(traces) - len(ran), seconds, str(target) if target else None))
        return Outcome(run_id, self.record.folder, tuple(ran), tuple(n for n in traces if n not in ran),
                       {n: self._artifact(t) for n, t in traces.items()}, target, seconds)

    def _stages(self, plan: Plan) -> tuple[dict[str, Trace], list[str]]:
        traces: dict[str, Trace] = {}
        ran: list[str] = []

        def base() -> Path | None:
            if BASE_STAGE not in traces:
                return self.within.located.sources.base.folder
            return base_folder(self.within.located.sources.base, self._artifact(traces[BASE_STAGE]),
                               self.within.store)

        performer = Performer(self.within, plan.read, self.record, self.tell, self.stopping, base, self.crew)
        for stage in plan.stages:
            question = self.within.ask(stage.name, {n: t.digest for n, t in traces.items()})
            inputs = {n: self._artifact(traces[n]) for n in self.within.chosen.needs[stage.name]}
            why = self._must(stage.name, stage.reason)
            traces[stage.name], done = performer.perform(question, inputs, why)
            ran += [stage.name] if done else []
        return traces, ran

    def _must(self, name: str, planned: Reason) -> Reason | None:
        """Why a stage runs although its result may be in the store."""
        if name in self.within.chosen.forced:
            return Simply.FORCED
        return planned if planned is Simply.BASE_GONE else None

    def _deliver(self, traces: Mapping[str, Trace], target: Path) -> bool:
        known = {**facts(self.within.recipe, traces, self.within.stages, self.within.numerics),
                 "written": self.written}
        place = hashlib.sha256(str(target.absolute()).encode()).hexdigest()[:32]

        def waiting(holder: str) -> None:
            self.tell(Note(EXPORT_STAGE, f"waiting for {holder}, which delivers to the same folder"))

        with self.within.store.lock(f"deliver-{place}", f"delivering {target.name}", waiting, self.stopping):
            return deliver(traces[EXPORT_STAGE], target, known, self.within.store)

    def _artifact(self, trace: Trace) -> Artifact:
        return Artifact(self.within.store.objects.path(trace.digest), trace.digest)
