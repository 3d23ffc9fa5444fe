"""How does an adapter of any program become one of dbrun's, at one rank and one scale? What all types share of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImportedAdapter:
    """An adapter as its library holds it. config: peft's settings, as far as they are known; state: weights by peft's
    names, float32; scales: layer -> what its update is multiplied with.
    """

    config: Mapping[str, object]
    state: Mapping[str, Tensor]
    scales: Mapping[str, float]

    @property
    def modules(self) -> tuple[str, ...]:
        """Full names of the adapted layers."""
        return tuple(sorted(self.scales))

    def layer_weights(self, layer: str) -> dict[str, Tensor]:
        """A layer's weights by the ends of their names."""
        return {name.removeprefix(f"{layer}."): t for name, t in self.state.items() if name.startswith(f"{layer}.")}


@dataclass(frozen=True)
class ImportCandidate:
    """settings: a recipe's for the type; state: weights by its names; changed: what was done to them, in words."""

    settings: Mapping[str, object]
    state: Mapping[str, Tensor]
    changes: tuple[str, ...] = ()


def unify_rank_and_scale(given: ImportedAdapter, state: Mapping[str, Tensor], rank_axis: Mapping[str, int],
                         scaled: str) -> ImportCandidate:
    """At one rank, the largest, filled with zeros; and at one scale, else in the weights whose names end in `scaled`.

    Neither changes a prediction. rank_axis: end of a weight's name -> the axis of its rank.
    """
    import torch

    ranks = {name: tensor.shape[axis] for name, tensor in state.items() for end, axis in rank_axis.items()
             if name.endswith(f".{end}")}
    rank, changed, new = max(ranks.values()), [], dict[str, torch.Tensor]()
    one = len(set(given.scales.values())) == 1
    for name, tensor in state.items():
        layer, end = next((n, name.removeprefix(f"{n}.")) for n in given.scales if name.startswith(f"{n}."))
        if name in ranks and ranks[name] < rank:
            axis, more = rank_axis[end], list(tensor.shape)
            more[axis] = rank - ranks[name]
            tensor = torch.cat([tensor, tensor.new_zeros(more)], dim=axis)
        new[name] = tensor if one or end != scaled else tensor * given.scales[layer]
    if len(set(ranks.values())) > 1:
        changed.append(f"ranks from {min(ranks.values())} to {rank} became {rank}, filled with zeros")
    if not one:
        changed.append("alpha differs between layers: it is in the weights, and alpha is the rank now")
    scale = next(iter(given.scales.values())) if one else 1.0
    return ImportCandidate({"rank": rank, "alpha": scale * rank}, new, tuple(changed))
