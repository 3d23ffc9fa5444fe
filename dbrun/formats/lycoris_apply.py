"""What a layer's weight becomes under the tensors that kohya's and LyCORIS' names hold for it.

Which names there are, and what they stand for, the adapter types say (`Adapter.lycoris_layer`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dbrun.adapters.base import adapter_types
from dbrun.adapters.lycoris_layer import LayerTensors, LycorisLayer
from dbrun.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

COMMON_SUFFIXES = frozenset({"alpha", "dora_scale"})
WEIGHT_DIFFERENCES: Mapping[str, LycorisLayer] = {
    "full": LycorisLayer("weights", frozenset({"diff"}), frozenset({"diff_b"}), lambda layer: layer["diff"]),
    "norm": LycorisLayer("norms", frozenset({"w_norm"}), frozenset({"b_norm"}), lambda layer: layer["w_norm"])}
"""Differences of the weights themselves, and of norms', by LyCORIS' words; no adapter type of a recipe is one."""


def layer_types() -> Mapping[str, LycorisLayer]:
    """The types of layers by LyCORIS' words: those of the adapter types, LoRA first, then differences of weights."""
    kinds = sorted(adapter_types(), key=lambda kind: not kind.supports_lora)
    return {**{kind.NAME: kind.lycoris_layer for kind in kinds if kind.lycoris_layer}, **WEIGHT_DIFFERENCES}


def layer_type(names: frozenset[str], layer: str) -> str:
    """The adapter type of a layer's names. Raises RecipeError where they are of none, or of one only in part."""
    own = names - COMMON_SUFFIXES
    kinds = layer_types()
    for name, kind in kinds.items():
        if own and kind.required <= own <= kind.required | kind.optional:
            return name
    known = {name for kind in kinds.values() for name in kind.required | kind.optional}
    titles = ", ".join(kind.title for name, kind in kinds.items() if name not in WEIGHT_DIFFERENCES)
    strange = sorted(own - known) or sorted(own)
    raise RecipeError(f"`{layer}` has tensors that make no {titles} or difference of weights: "
                      f"{', '.join(strange) or 'only alpha'}",
                      fix="name a file of one of these types that was written whole")


def layer_scale(layer: LayerTensors, kind: str) -> float:
    """alpha / rank; 1 where there is no alpha, and where no tensor has a rank: readers ignore alpha then."""
    inner = [layer[name] for name in layer_types()[kind].rank_names if name in layer]
    return float(layer["alpha"]) / inner[0].shape[0] if inner and "alpha" in layer else 1.0


def apply_to_weight(weight: Tensor, layer: LayerTensors, kind: str, name: str) -> Tensor:
    """The weight with the update in it; with `dora_scale`, each output (or input) brought to that length.

    name: the layer's. Raises RecipeError where the update is of another size.
    """
    made = layer_types()[kind].update(layer).to(weight)
    if (made.shape[0], made.numel()) != (weight.shape[0], weight.numel()):
        raise _size_mismatch(name)
    summed = weight + layer_scale(layer, kind) * made.reshape(weight.shape)
    if "dora_scale" not in layer:
        return summed
    lengths = layer["dora_scale"].to(weight)
    axis = 0 if lengths.shape[0] == weight.shape[0] else 1
    others = tuple(i for i in range(weight.dim()) if i != axis)
    shape = [weight.shape[axis] if i == axis else 1 for i in range(weight.dim())]
    turned: Tensor = summed * (lengths.reshape(shape) / summed.square().sum(dim=others, keepdim=True).sqrt())
    return turned


def apply_to_bias(bias: Tensor | None, layer: LayerTensors, name: str) -> Tensor | None:
    """The bias with what the layer adds to it; None where that is nothing.
    Raises RecipeError as `apply_to_weight` does."""
    more = layer.get("diff_b", layer.get("b_norm"))
    if more is None:
        return None
    if bias is None or more.shape != bias.shape:
        raise _size_mismatch(name)
    return bias.detach().float() + more


def _size_mismatch(name: str) -> RecipeError:
    return RecipeError(f"`{name}` is of another size in the base", fix="name an adapter that was trained on this base")
