"""Applying one layer's LyCORIS tensors to its weight and bias.

The adapter types define the names and their formulas (`Adapter.lycoris_layer`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dbrun.adapters.base import adapter_types
from dbrun.adapters.lycoris_layer import LayerTensors, LycorisLayer
from dbrun.errors import RecipeError
from dbrun.formats.lycoris_changes import WEIGHT_CHANGES

if TYPE_CHECKING:
    from torch import Tensor

COMMON_SUFFIXES = frozenset({"alpha", "dora_scale"})
"""Ends of names that a layer of every type can have."""
WEIGHT_DIFFERENCES: Mapping[str, LycorisLayer] = {
    "full": LycorisLayer("weights", frozenset({"diff"}), frozenset({"diff_b"}), lambda layer: layer["diff"]),
    "norm": LycorisLayer("norms", frozenset({"w_norm"}), frozenset({"b_norm"}), lambda layer: layer["w_norm"])}
"""LyCORIS' types for differences of weights and of norms; no adapter type of a recipe has these names."""


def layer_types() -> Mapping[str, LycorisLayer]:
    """LyCORIS' name of a type -> its layer: those of the adapter types, LoRA first, then types that are only read."""
    # LoRA first, as error messages list the types in this order; the sort is stable.
    kinds = sorted(adapter_types(), key=lambda kind: not kind.supports_lora)
    of_adapters = {kind.NAME: kind.lycoris_layer for kind in kinds if kind.lycoris_layer}
    return {**of_adapters, **WEIGHT_DIFFERENCES, **WEIGHT_CHANGES}


def layer_type(names: frozenset[str], layer: str) -> str:
    """Type of a layer with tensors of these names. Raises RecipeError if no type has them, or if some are missing."""
    own = names - COMMON_SUFFIXES
    kinds = layer_types()
    for name, kind in kinds.items():
        # LoKr requires no single name, so an empty layer would be a LoKr without the first condition.
        if own and kind.required <= own <= kind.required | kind.optional:
            return name
    known: set[str] = set()
    for kind in kinds.values():
        known |= kind.required | kind.optional
    titles = ", ".join(kind.title for name, kind in kinds.items() if name not in WEIGHT_DIFFERENCES)
    # Unknown names say most; if all are known, the set is incomplete or mixed.
    shown = sorted(own - known) or sorted(own) or ["only alpha"]
    raise RecipeError(f"`{layer}` has tensors that make no {titles} or difference of weights: {', '.join(shown)}",
                      fix="name a file of one of these types that was written whole")


def layer_scale(layer: LayerTensors, kind: str) -> float:
    """alpha / rank; 1 without alpha or without a tensor that has a rank, since readers ignore alpha then."""
    with_rank = [layer[name] for name in layer_types()[kind].rank_names if name in layer]
    if not with_rank or "alpha" not in layer:
        return 1.0
    return float(layer["alpha"]) / with_rank[0].shape[0]


def apply_to_weight(weight: Tensor, layer: LayerTensors, kind: str, name: str) -> Tensor:
    """The weight with the update added, [out, in …]; with `dora_scale`, scaled to that norm per output (or input).

    weight: [out, in …], float32; name: the layer's. Raises RecipeError if the update has another size.
    """
    lycoris_layer = layer_types()[kind]
    if lycoris_layer.change is not None:
        if "dora_scale" in layer:
            raise RecipeError(f"`{name}` is a {lycoris_layer.title} with the magnitudes of a DoRA, which every "
                              "program applies differently", fix="name another adapter")
        try:
            return weight + lycoris_layer.change(weight, layer)
        except ValueError as error:
            raise _size_mismatch(name) from error
    update = lycoris_layer.update(layer).to(weight)
    # Not the whole shape: updates are [out, in * kernel], the weights of convolutions [out, in, k, k].
    if (update.shape[0], update.numel()) != (weight.shape[0], weight.numel()):
        raise _size_mismatch(name)
    summed = weight + layer_scale(layer, kind) * update.reshape(weight.shape)
    if "dora_scale" not in layer:
        return summed

    # DoRA (arXiv:2402.09353, eq. 5): magnitude * direction, the direction being the sum over its norm.
    magnitudes = layer["dora_scale"].to(weight)
    axis = 1
    if magnitudes.shape[0] == weight.shape[0]:
        axis = 0
    other_axes = tuple(i for i in range(weight.dim()) if i != axis)
    shape = [1] * weight.dim()
    shape[axis] = weight.shape[axis]
    norms = summed.square().sum(dim=other_axes, keepdim=True).sqrt()
    scaled: Tensor = summed * (magnitudes.reshape(shape) / norms)
    return scaled


def apply_to_bias(bias: Tensor | None, layer: LayerTensors, name: str) -> Tensor | None:
    """The bias [out] with the layer's difference added, float32; None if the layer has none.

    Raises RecipeError if the base has no bias there, or one of another size.
    """
    change = layer.get("diff_b", layer.get("b_norm"))
    if change is None:
        return None
    if bias is None or change.shape != bias.shape:
        raise _size_mismatch(name)
    return bias.detach().float() + change


def _size_mismatch(name: str) -> RecipeError:
    return RecipeError(f"`{name}` is of another size in the base", fix="name an adapter that was trained on this base")
