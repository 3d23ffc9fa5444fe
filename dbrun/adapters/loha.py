"""LoHa: the entrywise product of two low-rank updates (Hyeon-Woo et al. 2021, FedPara, arXiv:2108.06098)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from dbrun.adapters.import_adapter import ImportCandidate, ImportedAdapter, unify_rank_and_scale
from dbrun.adapters.lycoris import Lycoris, merge_cp_kernels
from dbrun.adapters.lycoris_layer import LayerTensors, LycorisLayer

if TYPE_CHECKING:
    from peft import LoHaConfig
    from torch import Tensor


RANK_AXIS = {"hada_w1_a": 1, "hada_w1_b": 0, "hada_w2_a": 1, "hada_w2_b": 0}
"""End of a weight's name -> the axis of its rank."""


def _update(layer: LayerTensors) -> Tensor:
    plain = {name: tensor.float() for name, tensor in merge_cp_kernels(layer).items()}
    return (plain["hada_w1_a"] @ plain["hada_w1_b"]) * (plain["hada_w2_a"] @ plain["hada_w2_b"])


class LoHa(Lycoris):
    """LoHa: W + (alpha / rank) (B1 A1) * (B2 A2), of rank up to rank squared, with A2 zero at the start."""

    NAME: ClassVar[str] = "loha"
    scale_folds_into: ClassVar[tuple[str, ...]] = ("hada_w1_a",)
    lycoris_layer: ClassVar[LycorisLayer | None] = LycorisLayer(
        "LoHa", frozenset(RANK_AXIS), frozenset({"hada_t1", "hada_t2"}), _update, rank_names=("hada_w1_b",))

    type: Literal["loha"]
    """The adapter type."""

    def peft_config(self, modules: tuple[str, ...]) -> LoHaConfig:
        """peft's LoHaConfig with `init_weights=True`."""
        from peft import LoHaConfig

        return LoHaConfig(**self.peft_settings(modules))

    def to_lycoris(self, modules: tuple[str, ...], state: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """With the scale in the first factor, since LyCORIS' own merging applies alpha twice; no small kernels."""
        return {name: {**layer, "hada_w1_a": layer["hada_w1_a"] * self.scale}
                for name, layer in self.weights_by_layer(modules, state).items()}

    @classmethod
    def import_candidates(cls, given: ImportedAdapter) -> Iterator[ImportCandidate]:
        """Without small kernels, which ranks cannot be evened out with."""
        state = {f"{layer}.{end}": t for layer in given.modules
                 for end, t in merge_cp_kernels(given.layer_weights(layer)).items()}
        plain = unify_rank_and_scale(given, state, RANK_AXIS, "hada_w1_a")
        small = any(name.endswith("hada_t1") for name in given.state)
        words = ("small kernels were multiplied into the inner factors",) if small else ()
        yield replace(plain, changes=(*plain.changes, *words))
