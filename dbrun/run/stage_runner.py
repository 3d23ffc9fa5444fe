"""One stage: take its result from the store, or run it in a scratch folder and publish the result."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.disk_space import check_free_space
from dbrun.errors import DbrunError, Interrupted, StageFailed, WorkerKilled
from dbrun.events import Emit, LibrariesLoading, Note, StageFinished, StageReused, StageStarted
from dbrun.plan.cache_key import StageKey
from dbrun.plan.item_cache import item_cache
from dbrun.plan.planner import BASE_STAGE, Scope, Status, cache_status
from dbrun.plan.reasons import Reason
from dbrun.resolve.base import verified_base_folder
from dbrun.run.run_log import RunLog
from dbrun.run.turns import take_turn
from dbrun.stages.sources import Artifact
from dbrun.stages.support.memory_advice import stage_advice
from dbrun.stages.support.resident import ResidentBase
from dbrun.store.atomic import disk_errors, remove_tree, temp_name
from dbrun.store.locks import Lock
from dbrun.store.store import CheckDepth, Damage
from dbrun.store.traces import Trace
from dbrun.workers.launcher import WorkerGroup
from dbrun.workload import Workload

if TYPE_CHECKING:
    from dbrun.run.timing import StageTimer
    from dbrun.stages.base import StageContext
    from dbrun.store.items import DiskItemCache

FREE_SPACE_HINT = "free some space (`dbrun gc --dry-run` shows what can go), or set DBRUN_STORE to a larger disk"


@dataclass(frozen=True)
class StageRunner:
    """Runs single stages of a scope.

    stages_read: stages whose stored files are read in this run, not only their digests;
    stop_signal: returns the number of the signal that asked the run to stop, or 0;
    find_base: returns the base's folder for the stages after `load`, verified at each call;
    worker_group: the processes that share the work of a stage;
    resident: what the stages keep of the base in memory.
    """

    scope: Scope
    stages_read: frozenset[str]
    run_log: RunLog
    emit: Emit
    stop_signal: Callable[[], int]
    find_base: Callable[[], Path | None]
    worker_group: WorkerGroup
    resident: ResidentBase = field(default_factory=ResidentBase)

    def run_stage(self, stage_key: StageKey, inputs: Mapping[str, Artifact], why: Reason | None) -> tuple[Trace, bool]:
        """Return the stage's trace, and whether the stage ran. why: run it even if its result is in the store.

        Raises Interrupted after a signal, StageFailed and other DbrunErrors from the stage.
        """
        stage, store = stage_key.stage.NAME, self.scope.store
        self.run_log.save_stage_keys({stage: (stage_key.key, stage_key.resume_key)})
        _, _, trace = self._cache_status(stage_key, why)
        if trace is None:
            with self._lock_work(stage_key) as lock:
                # Asked again under the lock: whoever held it before may have published this very result.
                status, reason, trace = self._cache_status(stage_key, why)
                if trace is None and why is None and self._fetch_checkpoint(stage_key):
                    status, reason, trace = self._cache_status(stage_key, why)
                if trace is None:
                    signum = self.stop_signal()
                    if signum:
                        raise Interrupted(signum)
                    self._quarantine_damaged(stage_key)
                    if why is not None:
                        # A forced run starts from nothing; a checkpoint in here would be resumed.
                        remove_tree(store.work_folder(stage_key.resume_key))
                    self.emit(StageStarted(stage, str(why or reason), resumed=status is Status.RESUME))
                    try:
                        with take_turn(partial(self._note_turn, stage), self.stop_signal):
                            return self._run(stage_key, inputs, lock, from_scratch=why is not None), True
                    except StageFailed:
                        # Without working locks another process may have published first and removed our work folder.
                        _, _, trace = self._cache_status(stage_key, why)
                        if trace is None:
                            raise
        self.emit(StageReused(stage, trace.digest))
        return trace, False

    def _cache_status(self, stage_key: StageKey, why: Reason | None) -> tuple[Status, Reason, Trace | None]:
        with self.scope.store.shared_access():
            return cache_status(stage_key, self.scope.store, run_name=self.scope.recipe.name, forced=why is not None,
                                depth=self._verify_depth(stage_key.stage.NAME))

    def _verify_depth(self, stage: str) -> CheckDepth:
        """How closely a stored result is checked before it is used."""
        if stage not in self.stages_read:
            return "sizes"
        # Input of another stage: read in full, or damage would go into a new result under a sound key.
        # Only delivered: files that the stat cache knows to be unchanged need no reading.
        feeds_others = any(stage in above for above in self.scope.selected_stages.needs.values())
        return "digests" if self.scope.stages[stage].delivers and not feeds_others else "bytes"

    def _lock_work(self, stage_key: StageKey) -> AbstractContextManager[Lock | None]:
        """Hold the lock of the stage's work folder; while waiting, tell the user who holds it."""
        stage = stage_key.stage.NAME

        def waiting(holder: str) -> None:
            self.emit(Note(stage, f"waiting for {holder}, which computes the same result"))

        return self.scope.store.lock(f"{stage}-{stage_key.resume_key}", stage, waiting, self.stop_signal)

    def _fetch_checkpoint(self, stage_key: StageKey) -> bool:
        """Fetch what another machine saved of this stage's work, if that is further; return whether it was."""
        store, resume_key = self.scope.store, stage_key.resume_key
        if store.remote is None:
            return False
        return store.remote.fetch_checkpoint(stage_key.stage.NAME, resume_key, store.work_folder(resume_key),
                                             store.scratch / temp_name(), stage_key.last_step)

    def _note_turn(self, stage: str) -> None:
        self.emit(Note(stage, "waiting for another run of this process to finish its stage"))

    def _quarantine_damaged(self, stage_key: StageKey) -> None:
        """Move a damaged result of this key into quarantine, and tell the user where it is."""
        result = self.scope.store.look_up_locally(stage_key.stage.NAME, stage_key.key, "bytes")
        if isinstance(result, Damage):
            with disk_errors("moving a damaged result to quarantine"), self.scope.store.shared_access():
                aside = self.scope.store.objects.quarantine(result.trace.digest)
            text = f"the stored result is damaged ({result.lines[0]}); it is computed again"
            where = f", and the damaged one is in {aside}" if aside else ""
            self.emit(Note(stage_key.stage.NAME, text + where, "warning"))

    def _run(self, stage_key: StageKey, inputs: Mapping[str, Artifact], lock: Lock | None, *,
             from_scratch: bool) -> Trace:
        """Run the stage in a scratch folder and publish the result; the scratch folder goes, whatever happens."""
        # Imported here: a run that finds everything in the store starts without them.
        from dbrun.plan.estimate import stage_workload
        from dbrun.plan.memory import known_count, measured_memory
        from dbrun.run.checkpoint_uploads import CheckpointUploads
        from dbrun.run.stage_context import StageContextFactory
        from dbrun.run.timing import StageTimer, peak_memory

        stage, store = stage_key.stage.NAME, self.scope.store
        contexts = StageContextFactory(self.scope, self.stop_signal, self.find_base, self.run_log.folder, self.resident)
        items = item_cache(self.scope, stage_key, self.emit, self.find_base, from_scratch=from_scratch)
        out, work = store.make_temp_folder(), store.work_folder(stage_key.resume_key)
        digests = {name: artifact.digest for name, artifact in inputs.items()}
        left = items.share_left(stage_key.stage.item_keys(stage_key.params, digests, self.scope.numerics))
        began = time.monotonic()
        sharing = self.worker_group.size if stage_key.stage.multi_process else 1
        timer = StageTimer(self.emit, lock, items, share_to_make=left, processes=sharing)
        uploads = CheckpointUploads(store, stage_key, timer)
        counted = known_count(self.scope, stage)
        counted_bytes = counted.total if counted else None
        self.resident.stage_begins(counted_bytes)
        try:
            with self._log_crashes(stage_key), peak_memory(self.scope.numerics.device) as memory:
                work.mkdir(parents=True, exist_ok=True)
                # The other processes read from the store what this one has learnt of the Hub.
                store.save_caches()
                with self.worker_group.share_stage(stage_key, digests, self.emit, self.stop_signal,
                                                   from_scratch=from_scratch) as process_group:
                    self._compute(stage_key, contexts.make_context(stage_key, inputs, out, items, uploads,
                                                                   process_group), items.bytes_on_disk)
                # Verified after the work, too: a base that changed meanwhile must not give a result under this key.
                base = self._verified_base(stage, out)
                seconds = time.monotonic() - began
                workload = stage_workload(self.scope, stage, base)
                share = self._share_done(workload, timer, items, left)
                trace = store.publish(stage, stage_key.key, stage_key.document, out, seconds=seconds,
                                      items=items.used_keys, memory=memory(), share=share,
                                      startup=timer.startup(seconds), amounts=workload,
                                      baseline=self._memory_baseline())
        except Interrupted:
            uploads.upload()
            raise
        finally:
            # Nothing is open after a stage that went well.
            self.resident.close_failed()
            remove_tree(out)
        uploads.finish(trace)
        # Work that a longer run can extend (checkpoints of a training) stays; gc takes it once no run needs it.
        if not stage_key.stage.extendable_params(stage_key.params):
            remove_tree(work)
        own_memory = measured_memory(trace)
        self.emit(StageFinished(stage, trace.digest, round(seconds, 3), own_memory, counted_bytes))
        return trace

    def _compute(self, stage_key: StageKey, context: StageContext[Any], bytes_on_disk: int) -> None:
        """Run the stage's own code where the disk has room for its result. bytes_on_disk: of items that stand already.
        """
        needed = stage_key.stage.max_disk_bytes(context) - bytes_on_disk
        check_free_space(self.scope.store.root, "the store", context.stage, needed, FREE_SPACE_HINT)
        if "torch" in stage_key.stage.libraries and "torch" not in sys.modules:
            self.emit(LibrariesLoading(context.stage))
        stage_key.stage.run(context)
        self.resident.stage_done()

    def _memory_baseline(self) -> int:
        """Bytes of this process that are not the stage's own: the libraries, and what other stages left."""
        # on a GPU only tensors are counted
        return 0 if self.scope.numerics.device == "cuda" else self.resident.baseline

    def _share_done(self, workload: Workload, timer: StageTimer, items: DiskItemCache, left: float) -> float:
        """The part of the whole work that this run did, 0 to 1, for estimates. left: the part that was not cached."""
        if items.used_keys:
            # With several processes this one sees only the items that it made itself.
            return left if self.worker_group.size > 1 else items.new_count / len(items.used_keys)
        if workload.units == 1.0:
            return 1.0
        return timer.share or 0.0

    def _verified_base(self, stage: str, out: Path) -> Path | None:
        """The base's folder. Raises DbrunError if its files are no longer those that the key names."""
        if stage == BASE_STAGE:
            return verified_base_folder(self.scope.resolved.sources.base, Artifact(out, ""), self.scope.store)
        return self.find_base()

    @contextmanager
    def _log_crashes(self, stage_key: StageKey) -> Iterator[None]:
        """Context manager: pass DbrunErrors on; write any other exception to the run log and raise a DbrunError."""
        def advice() -> str:
            return stage_advice(stage_key.stage, self.scope.recipe, self.scope.numerics.device)

        try:
            yield
        except WorkerKilled as error:
            raise StageFailed(error.message, fix=f"{error.fix}; if memory ran out: {advice()}") from error
        except (DbrunError, KeyboardInterrupt):
            raise
        # SystemExit, too: some libraries call sys.exit on an error.
        except (Exception, SystemExit) as error:
            raise self.run_log.log_crash(stage_key.stage.NAME, error, advice()) from error

