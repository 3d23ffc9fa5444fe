"""Forecast of a run for people: the download, memory against that of the device, free disk, and the amount of work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dbrun.disk_space import free_bytes
from dbrun.errors import RecipeError
from dbrun.plan.device import device_memory
from dbrun.plan.planner import Plan, Scope, Status
from dbrun.resolve.base import published_base
from dbrun.stages.support.memory import CountedMemory
from dbrun.stages.support.training_length import training_length

SCORING_STAGES = frozenset(("select", "evaluate"))
"""Stages that draw pictures to measure them."""


@dataclass(frozen=True)
class Forecast:
    """What a run needs. None stands for what is not known.

    download: text on the size of what is fetched; can_count: whether memory can be counted now; counted_memory: bytes
    of the largest counted stage; largest_stage: its name; device_memory: bytes of the device; free_disk: bytes free for
    the store; work: class images and training steps that are to be done, in words.
    """

    download: str | None
    can_count: bool
    counted_memory: int | None
    largest_stage: str | None
    device: str
    device_memory: int | None
    free_disk: int | None
    work: tuple[str, ...]


def forecast(scope: Scope, plan: Plan, counts: Mapping[str, CountedMemory], download: str | None) -> Forecast:
    """The forecast of a plan. counts: stage → its counted memory; download: the Hub's answer."""
    largest = max(counts, key=lambda name: counts[name].total, default=None)
    memory = None if largest is None else counts[largest].total
    device = scope.numerics.device
    base = scope.resolved.sources.base
    can_count = base.folder is not None or published_base(base) is not None
    return Forecast(download, can_count, memory, largest, device, device_memory(device),
                    free_bytes(scope.store.root), tuple(_work(scope, plan)))


def _work(scope: Scope, plan: Plan) -> Iterator[str]:
    pending = {stage.name for stage in plan.stages if stage.status is not Status.HIT}
    recipe = scope.recipe
    if "generate-priors" in pending and recipe.prior is not None:
        count = recipe.prior.generated_count * len(recipe.generated_class_prompts)
        if count:
            yield f"{count} class images"
    if "train" in pending:
        try:
            steps = training_length(recipe, scope.resolved.sources).steps
        except RecipeError:
            # epochs of buckets have no length before the base is here
            return
        yield f"{steps} training steps"
    scored = 0.0
    for name in SCORING_STAGES & pending:
        scored += scope.stages[name].workload(recipe, scope.resolved.sources).units
    if scored:
        yield f"{scored:.0f} pictures to score"
