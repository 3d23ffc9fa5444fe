"""Import of adapters from other programs: the parts that all adapter types share (one rank, one scale)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImportedAdapter:
    """An adapter as its own library holds it.

    config: peft's settings, as far as they are known; state: weights by peft's names, float32;
    scales: layer -> factor that its update is multiplied by.
    """

    config: Mapping[str, object]
    state: Mapping[str, Tensor]
    scales: Mapping[str, float]

    @property
    def modules(self) -> tuple[str, ...]:
        """Full names of the adapted layers, sorted."""
        return tuple(sorted(self.scales))

    def layer_weights(self, layer: str) -> dict[str, Tensor]:
        """One layer's weights by the ends of their names, such as `lora_A.weight` [r, in …]; shapes as in `state`."""
        return {name.removeprefix(f"{layer}."): t for name, t in self.state.items() if name.startswith(f"{layer}.")}


@dataclass(frozen=True)
class ImportCandidate:
    """One reading of an imported adapter as an adapter of a recipe.

    settings: the recipe's settings for the type; state: weights by the type's names, float32;
    changes: conversions made on the way, in words.
    """

    settings: Mapping[str, object]
    state: Mapping[str, Tensor]
    changes: tuple[str, ...] = ()


def unify_rank_and_scale(given: ImportedAdapter, state: Mapping[str, Tensor], rank_axis: Mapping[str, int],
                         scaled: str) -> ImportCandidate:
    """Bring all layers to one rank (the largest, padded with zeros) and to one scale; no prediction changes.

    Scales that differ between layers go into the weights whose names end in `scaled`. state: weights by the type's
    names, such as A [r, in …] and B [out, r …]; r may differ between layers.
    rank_axis: end of a weight's name -> the axis of its rank; weights without an entry keep their shape.
    """
    import torch

    ranks: dict[str, int] = {}
    for name, tensor in state.items():
        for end, axis in rank_axis.items():
            if name.endswith(f".{end}"):
                ranks[name] = tensor.shape[axis]
    rank = max(ranks.values())
    one_scale = len(set(given.scales.values())) == 1

    new: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer = next(n for n in given.scales if name.startswith(f"{n}."))
        end = name.removeprefix(f"{layer}.")
        if name in ranks and ranks[name] < rank:
            # A zero row of one factor meets a zero column of the other: their product does not change.
            axis, padding = rank_axis[end], list(tensor.shape)
            padding[axis] = rank - ranks[name]
            tensor = torch.cat([tensor, tensor.new_zeros(padding)], dim=axis)
        if end == scaled and not one_scale:
            tensor = tensor * given.scales[layer]
        new[name] = tensor

    changes = []
    if len(set(ranks.values())) > 1:
        changes.append(f"ranks from {min(ranks.values())} to {rank} became {rank}, filled with zeros")
    scale = 1.0
    if one_scale:
        scale = next(iter(given.scales.values()))
    else:
        changes.append("alpha differs between layers: it is in the weights, and alpha is the rank now")
    return ImportCandidate({"rank": rank, "alpha": scale * rank}, new, tuple(changes))
