"""The StageContext: all that a stage's `run` can see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbrun.events import Emit
from dbrun.plan.cache_key import StageKey
from dbrun.plan.planner import BASE_STAGE, Scope
from dbrun.stages.base import RuntimeOptions, StageContext
from dbrun.stages.sources import Artifact
from dbrun.stages.support.process_group import ProcessGroup
from dbrun.stages.support.resident import ResidentBase
from dbrun.stages.support.sample_spec import sample_spec
from dbrun.stages.support.training_length import training_length
from dbrun.store.items import DiskItemCache


@dataclass(frozen=True)
class StageContextFactory:
    """Makes the contexts of the stages of a scope.

    find_base: returns the base's folder, verified at each call;
    run_folder: the run's record, None in a process that is not the first of its run;
    resident: what the stages of this process keep of the base in memory.
    """

    scope: Scope
    stop_signal: Callable[[], int]
    find_base: Callable[[], Path | None]
    run_folder: Path | None = None
    resident: ResidentBase = field(default_factory=ResidentBase)

    def make_context(self, stage_key: StageKey, inputs: Mapping[str, Artifact], out: Path, items: DiskItemCache,
                     emit: Emit, process_group: ProcessGroup) -> StageContext[object]:
        """The context of one run of a stage. out: the folder for its result; items: its single items."""
        scope, stage = self.scope, stage_key.stage
        # `load` gets the folder unverified: its result is what later stages verify the base against.
        source = scope.resolved.sources.base
        base = source.folder or source.incomplete if stage.NAME == BASE_STAGE else self.find_base()
        return StageContext(stage=stage.NAME, params=stage_key.params, numerics=scope.numerics, inputs=inputs, out=out,
                            work=items.work, files=scope.resolved.files, items=items, emit=emit,
                            stop_signal=self.stop_signal, base=base,
                            runtime=self._runtime_options(), process_group=process_group, resident=self.resident)

    def _runtime_options(self) -> RuntimeOptions:
        """Options that are not in a stage's params, because they change no byte of its result."""
        recipe, sources = self.scope.recipe, self.scope.resolved.sources
        train = recipe.train
        return RuntimeOptions(train.checkpoint_every, train.keep, train.gradient_checkpointing,
                              recipe.base.offload is not None, sample_spec(recipe, sources),
                              tuple(dict.fromkeys(recipe.trackers or ())), self.run_folder, recipe.name,
                              training_length(recipe, sources).steps_per_epoch)
