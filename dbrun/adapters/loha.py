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
    """(B1 A1) * (B2 A2), [out, in * kernel]."""
    plain = {name: tensor.float() for name, tensor in merge_cp_kernels(layer).items()}
    return (plain["hada_w1_a"] @ plain["hada_w1_b"]) * (plain["hada_w2_a"] @ plain["hada_w2_b"])


class LoHa(Lycoris):
    """LoHa: W + (alpha / rank) (B1 A1) * (B2 A2), of rank up to rank squared, with A2 zero at the start."""

    NAME: ClassVar[str] = "loha"
    # One of the four factors is enough: the update is linear in each of them.
    scale_folds_into: ClassVar[tuple[str, ...]] = ("hada_w1_a",)
    lycoris_layer: ClassVar[LycorisLayer | None] = LycorisLayer(
        "LoHa", frozenset(RANK_AXIS), frozenset({"hada_t1", "hada_t2"}), _update, rank_names=("hada_w1_b",))

    type: Literal["loha"]
    """The adapter type."""

    @property
    def starts_from_base_weights(self) -> bool:
        """False: its weights start at random or at zero."""
        return False

    def peft_config(self, modules: tuple[str, ...]) -> LoHaConfig:
        """peft's LoHaConfig with `init_weights=True`."""
        from peft import LoHaConfig

        return LoHaConfig(**self.peft_settings(modules))

    def to_lycoris(self, modules: tuple[str, ...], state: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """The factors, `hada_w1_a` [out, r] and so on, with the scale in `hada_w1_a` and no CP kernels."""
        layers = {}
        for name, layer in self.weights_by_layer(modules, state).items():
            # LyCORIS' own merging applies alpha twice; with alpha = rank once and twice are the same.
            layers[name] = {**layer, "hada_w1_a": layer["hada_w1_a"] * self.scale}
        return layers

    @classmethod
    def import_candidates(cls, given: ImportedAdapter) -> Iterator[ImportCandidate]:
        """Yield the one reading: CP kernels multiplied in, all layers at one rank and one scale."""
        # A kernel [r, r, k, k] cannot be padded to a larger rank beside its factors, so it goes first.
        state = {}
        for layer in given.modules:
            for end, tensor in merge_cp_kernels(given.layer_weights(layer)).items():
                state[f"{layer}.{end}"] = tensor
        plain = unify_rank_and_scale(given, state, RANK_AXIS, "hada_w1_a")
        changes = list(plain.changes)
        if any(name.endswith("hada_t1") for name in given.state):
            changes.append("small kernels were multiplied into the inner factors")
        yield replace(plain, changes=tuple(changes))
