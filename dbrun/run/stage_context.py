"""What does a stage's run get to see?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dbrun.events import Emit, Note
from dbrun.plan.cache_key import StageKey, shared_key_fields
from dbrun.plan.planner import BASE_STAGE, Scope
from dbrun.stages.base import Artifact, RuntimeOptions, StageContext
from dbrun.stages.support.process_group import ProcessGroup
from dbrun.stages.support.sample_spec import sample_spec
from dbrun.stages.support.training_length import training_length
from dbrun.store.items import DiskItemCache


@dataclass(frozen=True)
class StageContextFactory:
    """Makes the jobs of stages within a scope.

    find_base: gives the base's folder, verified at each call;
    run_folder: the run's folder, None where another process has it.
    """

    scope: Scope
    stop_signal: Callable[[], int]
    find_base: Callable[[], Path | None]
    run_folder: Path | None = None

    def item_cache(self, stage_key: StageKey, emit: Emit, *, from_scratch: bool) -> DiskItemCache:
        """The single items of a stage. from_scratch: make all of them again."""
        store, stage = self.scope.store, stage_key.stage
        return DiskItemCache(store, stage.NAME, shared_key_fields(stage, stage.NAME, self.scope.numerics),
                             store.work_folder(stage_key.resume_key), from_scratch,
                             lambda text: emit(Note(stage.NAME, text, "warning")), self.find_base)

    def make_context(self, stage_key: StageKey, inputs: Mapping[str, Artifact], out: Path, items: DiskItemCache,
                     emit: Emit, process_group: ProcessGroup) -> StageContext[object]:
        """All that the stage's run can see."""
        scope, stage = self.scope, stage_key.stage
        return StageContext(stage=stage.NAME, params=stage_key.params, numerics=scope.numerics, inputs=inputs, out=out,
                            work=items.work, files=scope.resolved.files, items=items, emit=emit,
                            stop_signal=self.stop_signal,
                            base=scope.resolved.sources.base.folder if stage.NAME == BASE_STAGE else self.find_base(),
                            runtime=self._runtime_options(), process_group=process_group)

    def _runtime_options(self) -> RuntimeOptions:
        recipe, sources = self.scope.recipe, self.scope.resolved.sources
        train = recipe.train
        return RuntimeOptions(train.checkpoint_every, train.keep, train.gradient_checkpointing,
                              sample_spec(recipe, sources),
                              tuple(dict.fromkeys(recipe.trackers or ())), self.run_folder, recipe.name,
                              training_length(recipe, sources).steps_per_epoch)
