"""Advice on what makes a stage need less memory, for the plan and for a stage that ran out of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dbrun.models.quantisation import quantisations
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import Stage
from dbrun.stages.support.base_loading import has_own_memory

NOTHING_TO_CHANGE = "free some memory: no key of the recipe makes this stage need less"
SMALLEST_SIDE = 64
"""Pixels of the smallest pictures that any base was trained on."""


def stage_advice(stage: Stage[Any], recipe: Recipe, device: str) -> str:
    """What makes a stage need less memory, as one clause. device: cuda, mps or cpu."""
    advice = list(stage.memory_advice(recipe, device))
    processes = recipe.launch.processes
    # on GPUs each process has a memory of its own
    if stage.multi_process and processes > 1 and not has_own_memory(device):
        fewer = max(count for count in range(1, processes) if processes % count == 0)
        advice.append(f"set `launch.processes: {fewer}`")
    return advice_text(advice)


def precision_advice(recipe: Recipe) -> tuple[str, ...]:
    """16 bits, where the recipe uses 32: both kinds of device then draw and train in 16."""
    if recipe.train.resolved_precision != "fp32":
        return ()
    return ("set `train.precision: bf16`",)


def resolution_advice(recipe: Recipe) -> tuple[str, ...]:
    """Fewer pixels, where there are more than a base needs."""
    if recipe.images.resolution <= SMALLEST_SIDE:
        return ()
    return ("lower `images.resolution`",)


def quantise_advice(recipe: Recipe, device: str) -> tuple[str, ...]:
    """A quantised denoiser, where the device has memory of its own and the adapter can learn on it."""
    # in CPU memory the whole weights lie first, before they are quantised
    if not has_own_memory(device) or recipe.base.quantise is not None or recipe.base.offload is not None:
        return ()
    adapter = recipe.adapt.adapters.get("denoiser")
    needs = adapter.layer_needs if adapter is not None else {}
    for name, kind in quantisations().items():
        if needs.keys().isdisjoint(kind.LACKS):
            return (f"set `base.quantise: {name}`",)
    return ()


def offload_advice(recipe: Recipe, device: str) -> tuple[str, ...]:
    """Blocks in CPU memory, where the device has memory of its own and the recipe allows it."""
    base, adapter = recipe.base, recipe.adapt.adapters.get("denoiser")
    trains_blocks = adapter is not None and not adapter.uses_peft
    if not has_own_memory(device) or base.offload or base.quantise or trains_blocks:
        return ()
    return ("set `base.offload: blocks`",)


def adapter_advice(recipe: Recipe) -> tuple[str, ...]:
    """A smaller adapter, where one of them takes as much as the weights themselves, or is of a high rank."""
    advice: list[str] = []
    for name, adapter in recipe.adapt.adapters.items():
        if not adapter.uses_peft:
            advice.append(f"choose a low-rank `adapt.{name}.type`: `{adapter.NAME}` trains every weight")
        elif getattr(adapter, "rank", 1) > 1:
            advice.append(f"lower `adapt.{name}.rank`")
    return tuple(advice)


def advice_text(advice: Sequence[str]) -> str:
    """The advice as one clause: "a, b, or c"."""
    if not advice:
        return NOTHING_TO_CHANGE
    *most, last = advice
    if not most:
        return last
    return f"{', '.join(most)}, or {last}"
