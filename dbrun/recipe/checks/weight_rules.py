"""Rules on how the denoiser's weights are held: quantised, or with its blocks in CPU memory."""

from __future__ import annotations

from collections.abc import Iterator

from dbrun.errors import KeyProblem
from dbrun.models.quantisation import quantisations
from dbrun.recipe.schema.model import Recipe


def check_weights(recipe: Recipe) -> Iterator[KeyProblem]:
    """Problems of `base.quantise` and `base.offload` with the device and with what learns."""
    yield from _quantise(recipe)
    yield from _offload(recipe)


def _quantise(recipe: Recipe) -> Iterator[KeyProblem]:
    name, adapter = recipe.base.quantise, recipe.adapt.adapters.get("denoiser")
    if name is None or adapter is None:
        return
    needs, kinds = adapter.layer_needs, quantisations()
    unmet = [why for need, why in needs.items() if need in kinds[name].LACKS]
    if not unmet:
        return
    able = [other for other, kind in kinds.items() if needs.keys().isdisjoint(kind.LACKS)]
    fix = "write `adapt: {denoiser: {type: lora}}`, or remove `quantise`"
    if able:
        fix = f"write `quantise: {able[0]}`, or `adapt: {{denoiser: {{type: lora}}}}`"
    yield KeyProblem("base.quantise", f"found '{name}', but `adapt.denoiser` cannot learn on it: {unmet[0]}", fix)


def _offload(recipe: Recipe) -> Iterator[KeyProblem]:
    base, adapter = recipe.base, recipe.adapt.adapters.get("denoiser")
    if base.offload is None:
        return
    found = f"found '{base.offload}', but"
    # silently without effect, and the user would count on the memory
    if recipe.device in ("cpu", "mps"):
        yield KeyProblem("base.offload", f"{found} with `device: {recipe.device}` nothing would move: the weights are "
                         "in CPU memory anyway", "remove it")
    if base.quantise is not None:
        yield KeyProblem("base.offload", f"{found} `quantise: {base.quantise}` keeps the scales of its weights apart "
                         "from them, and they would stay behind",
                         "remove `quantise`, or `offload`: 4 or 8 bits a weight need less memory, too")
    if adapter is not None and not adapter.uses_peft:
        yield KeyProblem("base.offload", f"{found} `adapt.denoiser: {{type: {adapter.NAME}}}` trains the blocks' own "
                         "weights, which stay on the GPU with their gradients",
                         "write `adapt: {denoiser: {type: lora}}`, or remove `offload`")
