"""How LyCORIS writes one layer of an adapter type: the names of its tensors, and the update that they stand for.

The formulas are those of LyCORIS (Yeh et al. 2023, arXiv:2309.14859) as ComfyUI and A1111 apply them. They are written
out without peft, so that what peft trained and what they read are two derivations of the same thing.
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
    """The names of one type, and what its tensors stand for.

    title: the type in running text; required, optional: the names that a layer has, and can have;
    update: gives the update [out, in * kernel], float32, without its scale;
    rank_names: the tensors [rank, …], the one first that the scale alpha / rank goes by;
    peft_names: name -> peft's, where the two differ; without_unknown: gives the layer without what peft cannot name;
    peft_has_dora: whether peft's config of the type has `use_dora`.
    """

    title: str
    required: frozenset[str]
    optional: frozenset[str]
    update: Callable[[LayerTensors], Tensor]
    rank_names: tuple[str, ...] = ()
    peft_names: Mapping[str, str] = field(default_factory=dict)
    without_unknown: Callable[[LayerTensors], dict[str, Tensor]] = _unchanged
    peft_has_dora: bool = False
