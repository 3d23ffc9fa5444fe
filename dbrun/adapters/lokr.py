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
"""LyCORIS' names; a layer has `w1` or `w1_a` and `w1_b`, and the same for `w2`, as its factors are whole or thin."""

PEFT_DEFAULT_FACTOR = -1
"""peft's `decompose_factor` for the divisor nearest the square root."""
MAX_RANK = 4096
"""Upper limit of `rank`; a rank that no layer reaches leaves every large factor whole."""


def _update(layer: LayerTensors) -> Tensor:
    """kron(w1, w2), [out, in * kernel]."""
    import torch

    plain = {name: tensor.float() for name, tensor in merge_cp_kernels(layer).items()}
    w1, w2 = _factor(plain, "lokr_w1"), _factor(plain, "lokr_w2")
    # w1 is a matrix even on a convolution: all of the kernel is in w2, so flattening w2 flattens the product.
    return torch.kron(w1, w2.flatten(1))


def _factor(layer: LayerTensors, name: str) -> Tensor:
    """A factor as one tensor: as it is, or the product of its two low-rank matrices."""
    if name in layer:
        return layer[name]
    return layer[f"{name}_a"] @ layer[f"{name}_b"].flatten(1)


class LoKr(Lycoris):
    """LoKr: W + (alpha / rank) kron(C, B A), with C zero at the start; a small factor is kept as a full matrix."""

    NAME: ClassVar[str] = "lokr"
    scale_folds_into: ClassVar[tuple[str, ...]] = ("lokr_w1", "lokr_w1_a")
    diffusers_mark: ClassVar[str | None] = "lokr"
    # LyCORIS takes the second factor's rank for alpha / rank where both factors are thin.
    lycoris_layer: ClassVar[LycorisLayer | None] = LycorisLayer(
        "LoKr", frozenset(), NAMES, _update, rank_names=("lokr_w2_b", "lokr_w1_b"))
    NEUTRAL: ClassVar[dict[str, object]] = {"factor": None, "decompose_both": False}

    type: Literal["lokr"]
    """The adapter type."""
    factor: Annotated[Int | None, Field(ge=2, le=4096), OrNone] = None
    """Size of C, if it divides the layer's size. Default: the divisor nearest the square root. A smaller C
    can learn more."""
    decompose_both: Bool = False
    """Make C a product of two low-rank matrices, too, if rank is less than half of its size."""

    def max_useful_rank(self, shape: Sequence[int]) -> int:
        """Every rank is useful to some degree: above a limit the large factor is a full matrix (see `layer_note`)."""
        return self.rank

    def layer_note(self, shapes: Mapping[str, Sequence[int]]) -> tuple[str, Level] | None:
        """Note on a rank without effect, because the large factor of every layer is a full matrix."""
        # peft decomposes the large factor only if rank < max(its sides) / 2.
        widest = max(self._large_factor_side(side) for shape in shapes.values() for side in shape[:2])
        enough = math.ceil(widest / 2)
        if self.rank < enough:
            return None
        return (f"rank {self.rank} has no effect: from rank {enough} on, the large factor of all {len(shapes)} layers "
                "is a full matrix", "info")

    def _large_factor_side(self, side: int) -> int:
        """Side of the large factor for a side of the weight, by peft's rule (`factorization` in peft's LoKr)."""
        if self.factor and side % self.factor == 0:
            return side // self.factor
        limit = min(self.factor or side, math.isqrt(side))
        small_side = max(n for n in range(1, limit + 1) if side % n == 0)
        return side // small_side

    @property
    def starts_from_base_weights(self) -> bool:
        """False: its weights start at random or at zero."""
        return False

    @property
    def _peft_factor(self) -> int:
        """peft's `decompose_factor`."""
        return PEFT_DEFAULT_FACTOR if self.factor is None else self.factor

    def peft_config(self, modules: tuple[str, ...]) -> LoKrConfig:
        """peft's LoKrConfig with `init_weights=True`."""
        from peft import LoKrConfig

        return LoKrConfig(**self.peft_settings(modules), decompose_both=self.decompose_both,
                          decompose_factor=self._peft_factor)

    def to_diffusers(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The factors, with the scale in C: [m, n], or [m, r] where C is thin."""
        scaled = {}
        for name, tensor in state.items():
            if name.endswith(self.scale_folds_into):
                tensor = tensor * self.scale
            scaled[name] = tensor
        return scaled

    def diffusers_config(self, modules: tuple[str, ...]) -> Mapping[str, object]:
        """Rank and factor; without them diffusers guesses them from the shapes of all layers, and may fail."""
        return {"r": self.rank, "alpha": self.rank, "decompose_both": self.decompose_both,
                "decompose_factor": self._peft_factor, "target_modules": list(modules)}

    def to_lycoris(self, modules: tuple[str, ...], state: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """C as one tensor `lokr_w1` [m, n] with the scale in it, and the tensors of the large factor."""
        layers = {}
        for name, layer in self.weights_by_layer(modules, state).items():
            if "lokr_w1" in layer:
                small = layer["lokr_w1"]
            else:
                small = layer["lokr_w1_a"] @ layer["lokr_w1_b"]
            large = {end: tensor for end, tensor in layer.items() if end.startswith("lokr_w2")}
            # The scale cannot stay in alpha: readers ignore alpha if both factors are whole.
            layers[name] = {"lokr_w1": small * self.scale, **large, "alpha": layer["alpha"]}
        return layers

    @classmethod
    def import_candidates(cls, given: ImportedAdapter) -> Iterator[ImportCandidate]:
        """Yield a reading for every factor and rank that may be right, all with the scale in the first factor.

        kohya's names do not tell the factor, and a rank shows only where a factor is thin.
        """
        state = {}
        for name, tensor in given.state.items():
            if name.endswith((".lokr_w1", ".lokr_w1_a")):
                layer = name.rpartition(".")[0]
                tensor = tensor * given.scales[layer]
            state[name] = tensor
        changes: tuple[str, ...] = ()
        if any(scale != 1 for scale in given.scales.values()):
            changes = ("the scale is in the first factor, and alpha is the rank now",)
        flags = {"decompose_both": any(name.endswith(".lokr_w1_a") for name in state),
                 "effective_conv": any(name.endswith(".lokr_t2") for name in state)}
        ranks = {t.shape[0] for name, t in state.items() if name.endswith((".lokr_w2_b", ".lokr_w1_b"))}
        for rank in sorted(ranks or {MAX_RANK}):
            for factor in _possible_factors(given, state):
                yield ImportCandidate({"rank": rank, "alpha": float(rank), "factor": factor, **flags}, state, changes)


def _possible_factors(given: ImportedAdapter, state: Mapping[str, Tensor]) -> list[int | None]:
    """Values of `factor` that the file allows, the likeliest first; None is the default."""
    recorded: Any = given.config.get("decompose_factor")
    if recorded == PEFT_DEFAULT_FACTOR:
        return [None]
    if recorded is not None:
        return [recorded]
    # The default comes first, then the sides of C, the largest first: where `factor` divides a layer, it is a side.
    sides: set[int] = set()
    for name, tensor in state.items():
        if name.endswith(".lokr_w1"):
            sides.update(side for side in tensor.shape if side > 1)
    return [None, *sorted(sides, reverse=True)]
