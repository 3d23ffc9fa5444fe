"""Advice on what makes a stage need less memory, for the plan and for a stage that ran out of it."""

from __future__ import annotations

from collections.abc import Sequence

from dbrun.models.quantisation import quantisations
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.support.base_loading import has_own_memory

NOTHING_TO_CHANGE = "free some memory: no key of the recipe makes this stage need less"


def precision_advice(recipe: Recipe, device: str) -> tuple[str, ...]:
    """16 bits, where the recipe uses 32 and the device draws and trains in 16."""
    # on a CPU pictures are drawn in 32 bits whatever the recipe says
    if device == "cpu" or recipe.train.resolved_precision != "fp32":
        return ()
    return ("set `train.precision: bf16`",)


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
        elif hasattr(adapter, "rank"):
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
