"""How does one stage come to its result: found in the store, or run in a scratch folder and published?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dbrun.disk_space import check_room
from dbrun.errors import DbrunError, Interrupted, StageFailed
from dbrun.events import Emit, Note, StageFinished, StageReused, StageStarted
from dbrun.plan.cache_key import Ask
from dbrun.plan.estimate import amounts
from dbrun.plan.planner import BASE_STAGE, EXPORT_STAGE, Scope, Status, judge
from dbrun.plan.reasons import Reason
from dbrun.resolve.base import base_folder
from dbrun.run.memory import peak
from dbrun.run.pace import Pace
from dbrun.run.run_log import Record
from dbrun.run.stage_context import Jobs
from dbrun.stages.base import Artifact
from dbrun.store.atomic import disk_errors, remove
from dbrun.store.locks import Lock
from dbrun.store.store import Damage, Depth
from dbrun.store.traces import Trace
from dbrun.workers.launcher import Crew

MORE_ROOM = "free some room (`dbrun gc --dry-run` says what can go), or set DBRUN_STORE to a larger disk"


@dataclass(frozen=True)
class Performer:
    """Runs single stages within a scope.

    read: stages whose stored results are used, not only named; base: gives the base's folder, verified at each
    call, for the stages after `load`; crew: the processes that share a stage.
    """

    within: Scope
    read: frozenset[str]
    record: Record
    emit: Emit
    stopping: Callable[[], int]
    base: Callable[[], Path | None]
    crew: Crew

    def perform(self, question: Ask, inputs: Mapping[str, Artifact], why: Reason | None) -> tuple[Trace, bool]:
        """The stage's trace, and whether it was run for it. why: run it even if its result is there."""
        stage, store = question.stage.NAME, self.within.store
        self.record.asked(stage, question.key, question.lineage)
        _, _, trace = self._judge(question, why)
        if trace is None:
            with self._alone(question) as lock:
                status, reason, trace = self._judge(question, why)
                if trace is None:
                    if signum := self.stopping():
                        raise Interrupted(signum)
                    self._mend(question)
                    if why is not None:
                        remove(store.work(question.lineage))
                    self.emit(StageStarted(stage, str(why or reason), resumed=status is Status.RESUME))
                    try:
                        return self._run(question, inputs, lock, anew=why is not None), True
                    except StageFailed:
                        # where locks do not work, another may have finished the same first, and cleared its work away
                        trace = self._judge(question, why)[2]
                        if trace is None:
                            raise
        self.emit(StageReused(stage, trace.digest))
        return trace, False

    def _judge(self, question: Ask, why: Reason | None) -> tuple[Status, Reason, Trace | None]:
        with self.within.store.using():
            return judge(question, self.within.store, run_name=self.within.recipe.name, forced=why is not None,
                         depth=self._depth(question.stage.NAME))

    def _depth(self, stage: str) -> Depth:
        """What a stage is going to read is read in full first; what is only delivered, where it can have changed."""
        if stage not in self.read:
            return "sizes"
        return "digests" if stage == EXPORT_STAGE else "bytes"

    def _alone(self, question: Ask) -> AbstractContextManager[Lock | None]:
        """Hold the lock of the stage's work, saying who has it where it must be waited for."""
        stage = question.stage.NAME

        def waiting(holder: str) -> None:
            self.emit(Note(stage, f"waiting for {holder}, which works on the same"))

        return self.within.store.lock(f"{stage}-{question.lineage}", stage, waiting, self.stopping)

    def _mend(self, question: Ask) -> None:
        found = self.within.store.look(question.stage.NAME, question.key, "bytes")
        if isinstance(found, Damage):
            with disk_errors("taking a damaged result out of use"), self.within.store.using():
                aside = self.within.store.objects.quarantine(found.trace.digest)
            text = f"the stored result is damaged ({found.lines[0]}); it is made again"
            where = f", the damaged one is in {aside}" if aside else ""
            self.emit(Note(question.stage.NAME, text + where, "warning"))

    def _run(self, question: Ask, inputs: Mapping[str, Artifact], lock: Lock | None, *, anew: bool) -> Trace:
        stage, store = question.stage.NAME, self.within.store
        jobs = Jobs(self.within, self.stopping, self.base, self.record.folder)
        items = jobs.items(question, self.emit, anew=anew)
        out, work = store.fresh(), store.work(question.lineage)
        digests = {name: artifact.digest for name, artifact in inputs.items()}
        left = items.left(question.stage.items(question.params, digests, self.within.numerics))
        began, pace = time.monotonic(), Pace(self.emit, lock, items)
        try:
            with self._clear_words(question), peak(self.within.numerics.device) as memory:
                work.mkdir(parents=True, exist_ok=True)
                # what this process has learnt of the Hub, the others read
                store.save_tables()
                with self.crew.sharing(question, digests, self.emit, self.stopping, anew=anew) as ranks:
                    job = jobs.job(question, inputs, out, items, pace, ranks)
                    check_room(store.root, "the store", stage, question.stage.room(job) - items.held, MORE_ROOM)
                    question.stage.run(job)
                base = self._same_base(stage, out)
                seconds = time.monotonic() - began
                size = amounts(self.within, stage, base)
                share = 1.0 if size.units == 1.0 else pace.share or 0.0
                if items.used:
                    share = left if self.crew.size > 1 else items.new / len(items.used)
                trace = store.publish(stage, question.key, question.document, out, seconds=seconds,
                                      items=items.used, memory=memory(), share=share,
                                      startup=pace.startup(seconds), amounts=size)
        finally:
            remove(out)
        if not question.stage.lengthens(question.params):
            remove(work)
        self.emit(StageFinished(stage, trace.digest, round(seconds, 3)))
        return trace

    def _same_base(self, stage: str, out: Path) -> Path | None:
        """The base's folder. Raises where it is no longer what the key says: a result made from it must not stand."""
        if stage == BASE_STAGE:
            return base_folder(self.within.located.sources.base, Artifact(out, ""), self.within.store)
        return self.base()

    @contextmanager
    def _clear_words(self, question: Ask) -> Iterator[None]:
        """Let errors for people pass, write any other down and say where."""
        try:
            yield
        except (DbrunError, KeyboardInterrupt):
            raise
        except (Exception, SystemExit) as error:
            raise self.record.crash(question.stage.NAME, error, question.stage.lighter) from error

