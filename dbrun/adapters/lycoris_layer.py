"""How LyCORIS stores one layer of an adapter type: the names of its tensors, and the update they stand for.

The formulas are those of LyCORIS (Yeh et al. 2023, arXiv:2309.14859) as ComfyUI and A1111 apply them. They are written
out without peft: so two independent derivations check each other, peft's in training and these in the exported file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LayerTensors = Mapping[str, "Tensor"]
"""One layer's tensors by the ends of their names, such as `lora_up.weight`."""


def _unchanged(layer: LayerTensors) -> dict[str, Tensor]:
    return dict(layer)


@dataclass(frozen=True)
class LycorisLayer:
    """The tensor names of one adapter type, and the update that its tensors stand for.

    title: the type's name in running text; required, optional: names that a layer must and may have;
    update: computes the update [out, in * kernel], float32, without its scale alpha / rank;
    rank_names: tensors whose axis 0 is a rank; the first that exists gives the rank of alpha / rank;
    peft_names: LyCORIS' name -> peft's, where they differ;
    without_unknown: returns the layer without tensors that peft has no name for, multiplied into the others;
    peft_has_dora: whether peft's config of the type has `use_dora`;
    change: for an update that depends on the weight: (weight [out, in …], layer) -> the update [out, in …] with its
    scale, float32. Raises ValueError for tensors of other shapes.
    """

    title: str
    required: frozenset[str]
    optional: frozenset[str]
    update: Callable[[LayerTensors], Tensor]
    rank_names: tuple[str, ...] = ()
    peft_names: Mapping[str, str] = field(default_factory=dict)
    without_unknown: Callable[[LayerTensors], dict[str, Tensor]] = _unchanged
    peft_has_dora: bool = False
    change: Callable[[Tensor, LayerTensors], Tensor] | None = None
