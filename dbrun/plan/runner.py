"""How is a recipe carried out: stage after stage, each from the store or run, then delivered?"""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dbrun.errors import Interrupted, StageFailed, WorkPending
from dbrun.events import Emit, Event, Note, RunFinished, RunStarted
from dbrun.plan.base import base_folder
from dbrun.plan.deliver import deliver
from dbrun.plan.facts import facts
from dbrun.plan.history import LastRun, last_run
from dbrun.plan.perform import Performer
from dbrun.plan.planner import ALL, BASE_STAGE, Plan, Scope, plan_of, scope
from dbrun.plan.reasons import Lacking, NotChosen, Reason, Simply
from dbrun.plan.record import Record
from dbrun.plan.selection import Selection
from dbrun.plan.signals import listening
from dbrun.plan.sources import Located, pinned
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.places import shown
from dbrun.stages.base import Artifact, Stage
from dbrun.store.store import Store
from dbrun.store.traces import Trace

__all__ = ["LastRun", "Outcome", "execute", "last_run"]

EXPORT_STAGE = "export"
"""The stage whose artifact is delivered."""


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
            stages: Mapping[str, Stage[Any]] | None = None) -> Outcome:
    """Do what a recipe asks for and is not done yet. Raises DbrunError; a failing stage's traceback is in the log.

    overrides: the words laid over the recipe, remembered for the next command; outputs: where exports go.
    """
    with listening() as stopping:
        try:
            store.prepare()
            known = pinned(loaded, located, store)
            for note in known.notes if known is not located else ():
                emit(note)
            within = scope(loaded.recipe, known, store, selection, stages)
            plan = plan_of(within)
            _refuse(plan)
            record = Record.begin(store, loaded, overrides)
            return _Run(within, record, emit, stopping).go(plan, loaded, outputs)
        except KeyboardInterrupt:
            raise Interrupted(stopping() or signal.SIGINT) from None
        finally:
            store.save_tables()


def _refuse(plan: Plan) -> None:
    """Raise where a stage cannot run, before anything expensive starts."""
    for stage in plan.blocked:
        if isinstance(stage.reason, NotChosen):
            raise WorkPending(f"{stage.name}: {stage.reason}",
                              fix=f"run it first: dbrun stage {stage.name}, or leave out --only and --from")
        fix = stage.reason.fix if isinstance(stage.reason, Lacking) else None
        raise StageFailed(f"{stage.name} cannot run: {stage.reason}", fix=fix)


@dataclass(frozen=True)
class _Run:
    within: Scope
    record: Record
    listener: Emit
    stopping: Callable[[], int]

    def go(self, plan: Plan, loaded: LoadedRecipe, outputs: Path) -> Outcome:
        """Every stage of the plan in order, then the delivery."""
        began = time.monotonic()
        name, run_id = loaded.recipe.name, self.record.folder.name
        self._emit(RunStarted(shown(loaded.path), name, run_id, tuple(s.name for s in plan.stages)))
        traces, ran = self._stages(plan)
        target = None
        if EXPORT_STAGE in traces:
            target = outputs / name
            self._deliver(traces, target)
        seconds = round(time.monotonic() - began, 3)
        self._emit(RunFinished(len(ran), len(traces) - len(ran), seconds, str(target) if target else None))
        return Outcome(run_id, self.record.folder, tuple(ran), tuple(n for n in traces if n not in ran),
                       {n: self._artifact(t) for n, t in traces.items()}, target, seconds)

    def _stages(self, plan: Plan) -> tuple[dict[str, Trace], list[str]]:
        traces: dict[str, Trace] = {}
        ran: list[str] = []

        @cache
        def base() -> Path | None:
            if BASE_STAGE not in traces:
                return self.within.located.sources.base.folder
            return base_folder(self.within.located.sources.base, self._artifact(traces[BASE_STAGE]),
                               self.within.store)

        performer = Performer(self.within, self.record, self._emit, self.stopping, base)
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

    def _deliver(self, traces: Mapping[str, Trace], target: Path) -> None:
        known = facts(self.within.recipe, traces, self.within.stages, self.within.numerics)
        place = hashlib.sha256(str(target.absolute()).encode()).hexdigest()[:32]

        def waiting(holder: str) -> None:
            self._emit(Note(EXPORT_STAGE, f"waiting for {holder}, which delivers to the same folder"))

        with self.within.store.lock(f"deliver-{place}", f"delivering {target.name}", waiting, self.stopping):
            deliver(traces[EXPORT_STAGE], target, known, self.within.store)

    def _artifact(self, trace: Trace) -> Artifact:
        return Artifact(self.within.store.objects.path(trace.digest), trace.digest)

    def _emit(self, event: Event) -> None:
        self.record.event(event)
        self.listener(event)
