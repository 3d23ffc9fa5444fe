"""LoKr: the Kronecker product of a small and a low-rank matrix (Yeh et al. 2023, arXiv:2309.14859)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from dbrun.adapters.base import Level
from dbrun.adapters.import_adapter import ImportCandidate, ImportedAdapter
from dbrun.adapters.lycoris import Lycoris, merge_cp_kernels
from dbrun.adapters.lycoris_layer import LayerTensors, LycorisLayer
from dbrun.config_types import Bool, Int, OrNone

if TYPE_CHECKING:
    from peft import LoKrConfig
    from torch import Tensor


NAMES = frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"})
"""LyCORIS' names; which of them a layer has depends on which factors are whole."""


def _update(layer: LayerTensors) -> Tensor:
    import torch

    plain = {name: tensor.float() for name, tensor in merge_cp_kernels(layer).items()}
    one, two = (_factor(plain, f"lokr_w{i}") for i in "12")
    return torch.kron(one, two.flatten(1))


def _factor(layer: LayerTensors, name: str) -> Tensor:
    if name in layer:
        return layer[name]
    return layer[f"{name}_a"] @ layer[f"{name}_b"].flatten(1)


class LoKr(Lycoris):
    """LoKr: W + (alpha / rank) kron(C, B A), with C zero at the start; a factor that is small enough stays whole."""

    NAME: ClassVar[str] = "lokr"
    scale_folds_into: ClassVar[tuple[str, ...]] = ("lokr_w1", "lokr_w1_a")
    # where both factors are thin, it is the second one's rank that counts
    lycoris_layer: ClassVar[LycorisLayer | None] = LycorisLayer(
        "LoKr", frozenset(), NAMES, _update, rank_names=("lokr_w2_b", "lokr_w1_b"))
    NEUTRAL: ClassVar[dict[str, object]] = {"factor": None, "decompose_both": False}

    type: Literal["lokr"]
    """The adapter type."""
    factor: Annotated[Int | None, Field(ge=2, le=4096), OrNone] = None
    """Size of C, where it divides the layer's; left out, the divisor nearest the square root. Smaller learns more."""
    decompose_both: Bool = False
    """Make C, too, a product of two thin matrices, where rank is less than half its size."""

    def max_useful_rank(self, shape: Sequence[int]) -> int:
        """Any rank: from some on, the large factor stays whole."""
        return self.rank

    def layer_note(self, shapes: Mapping[str, Sequence[int]]) -> tuple[str, Level] | None:
        """A rank that says nothing, since the large factor of every layer stays whole."""
        enough = math.ceil(max(self._large_factor_side(side) for shape in shapes.values() for side in shape[:2]) / 2)
        if self.rank < enough:
            return None
        return (f"rank {self.rank} changes nothing: from rank {enough} on the large factor of all {len(shapes)} layers "
                "stays whole", "info")

    def _large_factor_side(self, side: int) -> int:
        """What a side of a weight is divided into as the side of the thin factor, as peft does it."""
        if self.factor and side % self.factor == 0:
            return side // self.factor
        most = min(self.factor or side, math.isqrt(side))
        return side // max(n for n in range(1, most + 1) if side % n == 0)

    def peft_config(self, modules: tuple[str, ...]) -> LoKrConfig:
        """peft's LoKrConfig with `init_weights=True`."""
        from peft import LoKrConfig

        return LoKrConfig(**self.peft_settings(modules), decompose_both=self.decompose_both,
                          decompose_factor=-1 if self.factor is None else self.factor)

    def to_lycoris(self, modules: tuple[str, ...], state: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """With C whole and the scale in it: readers ignore alpha where both factors are whole."""
        layers = {}
        for name, layer in self.weights_by_layer(modules, state).items():
            first = layer["lokr_w1"] if "lokr_w1" in layer else layer["lokr_w1_a"] @ layer["lokr_w1_b"]
            second = {end: tensor for end, tensor in layer.items() if end.startswith("lokr_w2")}
            layers[name] = {"lokr_w1": first * self.scale, **second, "alpha": layer["alpha"]}
        return layers

    @classmethod
    def import_candidates(cls, given: ImportedAdapter) -> Iterator[ImportCandidate]:
        """With the scale in the first factor; kohya's names do not tell the factor, so every one that may be right."""
        state = {name: tensor * given.scales[name.rpartition(".")[0]] if name.endswith((".lokr_w1", ".lokr_w1_a"))
                 else tensor for name, tensor in given.state.items()}
        moved = any(scale != 1 for scale in given.scales.values())
        words = ("the scale is in the first factor, and alpha is the rank now",) if moved else ()
        forms = {"decompose_both": any(name.endswith(".lokr_w1_a") for name in state),
                 "effective_conv": any(name.endswith(".lokr_t2") for name in state)}
        thin = {t.shape[0] for n, t in state.items() if n.endswith((".lokr_w2_b", ".lokr_w1_b"))} or {4096}
        sides = sorted({side for n, t in state.items() if n.endswith(".lokr_w1") for side in t.shape if side > 1})
        said: Any = given.config.get("decompose_factor")
        for rank in sorted(thin):
            for factor in [None, *reversed(sides)] if said is None else [None if said == -1 else said]:
                yield ImportCandidate({"rank": rank, "alpha": float(rank), "factor": factor, **forms}, state, words)
