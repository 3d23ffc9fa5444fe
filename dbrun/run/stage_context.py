"""What does a stage's run get to see?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dbrun.events import Emit, Note
from dbrun.plan.cache_key import Ask, bound
from dbrun.plan.planner import BASE_STAGE, Scope
from dbrun.stages.base import Artifact, Job, Upkeep
from dbrun.stages.support.process_group import Ranks
from dbrun.stages.support.sample_spec import columns
from dbrun.stages.support.training_length import length
from dbrun.store.items import StoredItems


@dataclass(frozen=True)
class Jobs:
    """Makes the jobs of stages within a scope.

    base: gives the base's folder, verified at each call; record: the run's folder, None where another process has it.
    """

    within: Scope
    stopping: Callable[[], int]
    base: Callable[[], Path | None]
    record: Path | None = None

    def items(self, question: Ask, emit: Emit, *, anew: bool) -> StoredItems:
        """The single items of a stage. anew: make all of them again."""
        store, stage = self.within.store, question.stage
        return StoredItems(store, stage.NAME, bound(stage, stage.NAME, self.within.numerics),
                           store.work(question.lineage), anew,
                           lambda text: emit(Note(stage.NAME, text, "warning")), self.base)

    def job(self, question: Ask, inputs: Mapping[str, Artifact], out: Path, items: StoredItems, emit: Emit,
            ranks: Ranks) -> Job[object]:
        """All that the stage's run can see."""
        within, stage = self.within, question.stage
        return Job(stage=stage.NAME, params=question.params, numerics=within.numerics, inputs=inputs, out=out,
                   work=items.work, files=within.located.files, items=items, emit=emit, stopping=self.stopping,
                   base=within.located.sources.base.folder if stage.NAME == BASE_STAGE else self.base(),
                   upkeep=self._upkeep(), ranks=ranks)

    def _upkeep(self) -> Upkeep:
        recipe, sources = self.within.recipe, self.within.located.sources
        train = recipe.train
        return Upkeep(train.checkpoint_every, train.keep, train.gradient_checkpointing, columns(recipe, sources),
                      tuple(dict.fromkeys(recipe.trackers or ())), self.record, recipe.name,
                      length(recipe, sources).steps_per_epoch)
