"""LoRA: a low-rank update beside a frozen weight (Hu et al. 2021, arXiv:2106.09685, eq. 3), and its variants."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from dbrun.adapters import pissa
from dbrun.adapters.base import LowRankAdapter, Targets
from dbrun.adapters.import_adapter import ImportCandidate, ImportedAdapter, unify_rank_and_scale
from dbrun.adapters.lycoris_layer import LayerTensors, LycorisLayer
from dbrun.config_types import Bool, Float
from dbrun.errors import KeyProblem

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor, nn


RANK_AXIS = {"lora_A.weight": 0, "lora_B.weight": 1}
"""End of a weight's name -> the axis of its rank."""
PEFT_NAMES = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
"""LyCORIS' names -> peft's."""


def _merge_mid(layer: LayerTensors) -> dict[str, Tensor]:
    """The layer with the inner kernel of a CP-decomposed LoRA, which peft does not know, multiplied in: exact."""
    import torch

    out = dict(layer)
    if "lora_mid.weight" in out:
        down = out["lora_down.weight"].flatten(1)
        out["lora_down.weight"] = torch.einsum("rskl,si->rikl", out.pop("lora_mid.weight"), down)
    return out


def _update(layer: LayerTensors) -> Tensor:
    plain = _merge_mid(layer)
    return plain["lora_up.weight"].float().flatten(1) @ plain["lora_down.weight"].float().flatten(1)


class Lora(LowRankAdapter):
    """LoRA: W x + (alpha / rank) B A x, with B zero at the start."""

    NAME: ClassVar[str] = "lora"
    scale_folds_into: ClassVar[tuple[str, ...]] = ("lora_B",)
    NEUTRAL: ClassVar[dict[str, object]] = {"dropout": 0.0, "rslora": False, "dora": False, "start": "zero"}
    OMIT_IF_NEUTRAL: ClassVar[tuple[str, ...]] = ("rslora", "dora", "start")
    supports_lora: ClassVar[bool] = True
    lycoris_layer: ClassVar[LycorisLayer | None] = LycorisLayer(
        "LoRA", frozenset(PEFT_NAMES), frozenset({"lora_mid.weight"}), _update, rank_names=("lora_down.weight",),
        peft_names=PEFT_NAMES, without_unknown=_merge_mid, peft_has_dora=True)

    type: Literal["lora"]
    """The adapter type."""
    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs dropped while training."""
    rslora: Bool = False
    """Scale by alpha / sqrt(rank) instead, so that a high rank learns as fast as a low one (arXiv:2312.03732)."""
    dora: Bool = False
    """Learn each output's magnitude beside the direction of its weights (DoRA, arXiv:2402.09353); slower, and
    computed otherwise by ComfyUI and A1111."""
    start: Literal["zero", "pissa"] = "zero"
    """Where it starts: zero (B = 0), or pissa: the weights' own main directions (arXiv:2404.02948), linear layers."""
    targets: Targets = "attention"
    """Which layers are adapted: attention, attention+ff, linear, all (also convolutions), or patterns."""

    @property
    def scale(self) -> float:
        """alpha / rank, or alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732)."""
        return self.effective_alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def linear_only_reason(self) -> str | None:
        """PiSSA takes matrices apart, and a convolution's weight is none."""
        if not self._is_pissa:
            return None
        return "`start: pissa` takes a weight apart as a matrix, which a convolution's is not"

    @property
    def starts_exactly(self) -> bool:
        """Not after PiSSA, whose two halves cancel but for rounding."""
        return not self._is_pissa

    def field_problems(self) -> Iterator[KeyProblem]:
        """PiSSA bears neither dropout nor DoRA, and is a start of its own."""
        if self._is_pissa and self.dropout:
            yield KeyProblem("dropout",
                             f"found {self.dropout:g} with `start: pissa`, where it would drop the base's own main "
                             "directions", "leave out `dropout`, or `start: pissa`")
        if self._is_pissa and self.init:
            yield KeyProblem("init", "found an adapter to start from, and `start: pissa`", "leave out one of the two")
        if self._is_pissa and self.dora:
            yield KeyProblem("dora",
                             "found true with `start: pissa`: DoRA's magnitudes are those of whole weights, and PiSSA "
                             "splits them", "leave out `dora`, or `start: pissa`")

    def peft_config(self, modules: tuple[str, ...]) -> LoraConfig:
        """peft's LoraConfig with `init_lora_weights=True`: A Kaiming-uniform, B zero."""
        return self._lora_config(modules, lora_dropout=self.dropout, use_rslora=self.rslora, use_dora=self.dora)

    def frozen_peft_config(self, modules: tuple[str, ...]) -> LoraConfig | None:
        """What takes PiSSA's first factors off again, for good."""
        return self._lora_config(modules, use_rslora=self.rslora) if self._is_pissa else None

    def initial_weights(self, layers: Mapping[str, nn.Module], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """As peft drew it, or with the weights' main directions as B and A."""
        return pissa.initial_weights(layers, state, self.scale) if self._is_pissa else state

    def to_peft(self, modules: tuple[str, ...],
                state: Mapping[str, Tensor]) -> tuple[LoraConfig, Mapping[str, Tensor]]:
        """Itself; after PiSSA a plain LoRA of twice the rank."""
        if not self._is_pissa:
            return self.peft_config(modules), state
        rank = 2 * self.rank
        return self._lora_config(modules, r=rank, lora_alpha=self.scale * rank), pissa.to_plain_lora(state)

    def to_lora(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """With the scale in B."""
        pairs = pissa.to_plain_lora(state) if self._is_pissa else state
        return {name: tensor * self.scale if ".lora_B." in name else tensor for name, tensor in pairs.items()}

    def to_lycoris(self, modules: tuple[str, ...], state: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """The pair and the alpha that gives its scale at its rank; DoRA's magnitudes, [out, 1 …], as `dora_scale`."""
        import torch

        pairs = pissa.to_plain_lora(state) if self._is_pissa else state
        layers = {}
        for name in modules:
            down, up = pairs[name + pissa.A], pairs[name + pissa.B]
            layers[name] = {"lora_down.weight": down, "lora_up.weight": up,
                            "alpha": torch.tensor(self.scale * down.shape[0])}
            if self.dora:
                lengths = pairs[f"{name}.lora_magnitude_vector"]
                layers[name]["dora_scale"] = lengths.reshape(-1, *[1] * (down.dim() - 1))
        return layers

    @property
    def lycoris_caveat(self) -> str | None:
        """DoRA's lengths are those of outputs, of W + B A. ComfyUI's weight_decompose (comfy/weight_adapter/base.py
        @9c0cf36c; its pull request 15458) takes W's own, and A1111's network.py those of inputs."""
        return ("ComfyUI scales a DoRA by the lengths of the base's weights and A1111 by those of inputs, so both draw "
                "something else than was trained" if self.dora else None)

    @classmethod
    def import_candidates(cls, given: ImportedAdapter) -> Iterator[ImportCandidate]:
        """A LoRA, or a DoRA where it has magnitudes."""
        dora = any(name.endswith("magnitude_vector") for name in given.state)
        plain = unify_rank_and_scale(given, given.state, RANK_AXIS, "lora_B.weight")
        yield replace(plain, settings={**plain.settings, **({"dora": True} if dora else {})})

    @property
    def _is_pissa(self) -> bool:
        return self.start == "pissa"

    def _lora_config(self, modules: tuple[str, ...], **settings: Any) -> LoraConfig:
        from peft import LoraConfig

        return LoraConfig(**{"r": self.rank, "lora_alpha": self.effective_alpha, "target_modules": list(modules),
                             "init_lora_weights": True, **settings})
