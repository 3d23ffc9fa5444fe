"""How does one stage come to its result: found in the store, or run in a scratch folder and published?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dbrun.disk_space import check_free_space
from dbrun.errors import DbrunError, Interrupted, StageFailed
from dbrun.events import Emit, Note, StageFinished, StageReused, StageStarted
from dbrun.plan.cache_key import StageKey
from dbrun.plan.item_cache import item_cache
from dbrun.plan.planner import BASE_STAGE, Scope, Status, cache_status
from dbrun.plan.reasons import Reason
from dbrun.resolve.base import verified_base_folder
from dbrun.run.run_log import RunLog
from dbrun.stages.sources import Artifact
from dbrun.store.atomic import disk_errors, remove_tree
from dbrun.store.locks import Lock
from dbrun.store.store import CheckDepth, Damage
from dbrun.store.traces import Trace
from dbrun.workers.launcher import WorkerGroup

FREE_SPACE_HINT = "free some room (`dbrun gc --dry-run` says what can go), or set DBRUN_STORE to a larger disk"


@dataclass(frozen=True)
class StageRunner:
    """Runs single stages within a scope.

    stages_read: stages whose stored results are used, not only named; find_base: gives the base's folder, verified at
    each call, for the stages after `load`; worker_group: the processes that share a stage.
    """

    scope: Scope
    stages_read: frozenset[str]
    run_log: RunLog
    emit: Emit
    stop_signal: Callable[[], int]
    find_base: Callable[[], Path | None]
    worker_group: WorkerGroup

    def run_stage(self, stage_key: StageKey, inputs: Mapping[str, Artifact], why: Reason | None) -> tuple[Trace, bool]:
        """The stage's trace, and whether it was run for it. why: run it even if its result is there."""
        stage, store = stage_key.stage.NAME, self.scope.store
        self.run_log.save_stage_key(stage, stage_key.key, stage_key.resume_key)
        _, _, trace = self._cache_status(stage_key, why)
        if trace is None:
            with self._lock_work(stage_key) as lock:
                status, reason, trace = self._cache_status(stage_key, why)
                if trace is None:
                    if signum := self.stop_signal():
                        raise Interrupted(signum)
                    self._quarantine_damaged(stage_key)
                    if why is not None:
                        remove_tree(store.work_folder(stage_key.resume_key))
                    self.emit(StageStarted(stage, str(why or reason), resumed=status is Status.RESUME))
                    try:
                        return self._run(stage_key, inputs, lock, from_scratch=why is not None), True
                    except StageFailed:
                        # where locks do not work, another may have finished the same first, and cleared its work away
                        trace = self._cache_status(stage_key, why)[2]
                        if trace is None:
                            raise
        self.emit(StageReused(stage, trace.digest))
        return trace, False

    def _cache_status(self, stage_key: StageKey, why: Reason | None) -> tuple[Status, Reason, Trace | None]:
        with self.scope.store.shared_access():
            return cache_status(stage_key, self.scope.store, run_name=self.scope.recipe.name, forced=why is not None,
                                depth=self._verify_depth(stage_key.stage.NAME))

    def _verify_depth(self, stage: str) -> CheckDepth:
        """What a stage is going to read is read in full first; what is only delivered, where it can have changed."""
        if stage not in self.stages_read:
            return "sizes"
        feeds_others = any(stage in above for above in self.scope.selected_stages.needs.values())
        return "digests" if self.scope.stages[stage].delivers and not feeds_others else "bytes"

    def _lock_work(self, stage_key: StageKey) -> AbstractContextManager[Lock | None]:
        """Hold the lock of the stage's work, saying who has it where it must be waited for."""
        stage = stage_key.stage.NAME

        def waiting(holder: str) -> None:
            self.emit(Note(stage, f"waiting for {holder}, which works on the same"))

        return self.scope.store.lock(f"{stage}-{stage_key.resume_key}", stage, waiting, self.stop_signal)

    def _quarantine_damaged(self, stage_key: StageKey) -> None:
        found = self.scope.store.look_up(stage_key.stage.NAME, stage_key.key, "bytes")
        if isinstance(found, Damage):
            with disk_errors("taking a damaged result out of use"), self.scope.store.shared_access():
                aside = self.scope.store.objects.quarantine(found.trace.digest)
            text = f"the stored result is damaged ({found.lines[0]}); it is made again"
            where = f", the damaged one is in {aside}" if aside else ""
            self.emit(Note(stage_key.stage.NAME, text + where, "warning"))

    def _run(self, stage_key: StageKey, inputs: Mapping[str, Artifact], lock: Lock | None, *,
             from_scratch: bool) -> Trace:
        # not at the top: a run of which all is cached starts without them
        from dbrun.plan.estimate import stage_workload
        from dbrun.run.stage_context import StageContextFactory
        from dbrun.run.timing import StageTimer, peak_memory

        stage, store = stage_key.stage.NAME, self.scope.store
        jobs = StageContextFactory(self.scope, self.stop_signal, self.find_base, self.run_log.folder)
        items = item_cache(self.scope, stage_key, self.emit, self.find_base, from_scratch=from_scratch)
        out, work = store.make_temp_folder(), store.work_folder(stage_key.resume_key)
        digests = {name: artifact.digest for name, artifact in inputs.items()}
        left = items.share_left(stage_key.stage.item_keys(stage_key.params, digests, self.scope.numerics))
        began, pace = time.monotonic(), StageTimer(self.emit, lock, items)
        try:
            with self._log_crashes(stage_key), peak_memory(self.scope.numerics.device) as memory:
                work.mkdir(parents=True, exist_ok=True)
                # what this process has learnt of the Hub, the others read
                store.save_caches()
                with self.worker_group.share_stage(stage_key, digests, self.emit, self.stop_signal,
                                                   from_scratch=from_scratch) as process_group:
                    job = jobs.make_context(stage_key, inputs, out, items, pace, process_group)
                    check_free_space(store.root, "the store", stage,
                                     stage_key.stage.max_disk_bytes(job) - items.bytes_on_disk, FREE_SPACE_HINT)
                    stage_key.stage.run(job)
                base = self._verified_base(stage, out)
                seconds = time.monotonic() - began
                size = stage_workload(self.scope, stage, base)
                share = 1.0 if size.units == 1.0 else pace.share or 0.0
                if items.used_keys:
                    share = left if self.worker_group.size > 1 else items.new_count / len(items.used_keys)
                trace = store.publish(stage, stage_key.key, stage_key.document, out, seconds=seconds,
                                      items=items.used_keys, memory=memory(), share=share,
                                      startup=pace.startup(seconds), amounts=size)
        finally:
            remove_tree(out)
        if not stage_key.stage.extendable_params(stage_key.params):
            remove_tree(work)
        self.emit(StageFinished(stage, trace.digest, round(seconds, 3)))
        return trace

    def _verified_base(self, stage: str, out: Path) -> Path | None:
        """The base's folder. Raises where it is no longer what the key says: a result made from it must not stand."""
        if stage == BASE_STAGE:
            return verified_base_folder(self.scope.resolved.sources.base, Artifact(out, ""), self.scope.store)
        return self.find_base()

    @contextmanager
    def _log_crashes(self, stage_key: StageKey) -> Iterator[None]:
        """Let errors for people pass, write any other down and say where."""
        try:
            yield
        except (DbrunError, KeyboardInterrupt):
            raise
        except (Exception, SystemExit) as error:
            raise self.run_log.log_crash(stage_key.stage.NAME, error, stage_key.stage.oom_fix) from error

