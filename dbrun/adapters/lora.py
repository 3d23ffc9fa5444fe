"""LoRA: a low-rank update beside a frozen weight (Hu et al. 2021, arXiv:2106.09685, eq. 3), and its variants."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from dbrun.adapters import pissa
from dbrun.adapters.base import LayerNeed, LowRankAdapter, Targets
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
    """The layer with the inner kernel of a CP-decomposed LoRA multiplied into `lora_down` [r, in, k, k]; exact."""
    import torch

    # peft has no name for the kernel `lora_mid` [r, r, k, k], but an equal pair of factors always exists.
    merged = dict(layer)
    if "lora_mid.weight" in merged:
        down = merged["lora_down.weight"].flatten(1)
        merged["lora_down.weight"] = torch.einsum("rskl,si->rikl", merged.pop("lora_mid.weight"), down)
    return merged


def _update(layer: LayerTensors) -> Tensor:
    """B A, [out, in * kernel]."""
    plain = _merge_mid(layer)
    down, up = plain["lora_down.weight"].float(), plain["lora_up.weight"].float()
    return up.flatten(1) @ down.flatten(1)


class Lora(LowRankAdapter):
    """LoRA: W x + (alpha / rank) B A x, with B zero at the start.

    A is [rank, in] on a linear layer and [rank, in, k, k] on a convolution, B [out, rank] and [out, rank, 1, 1].
    """

    NAME: ClassVar[str] = "lora"
    USUAL: ClassVar[bool] = True
    # B, as in `to_lora`; the update depends on the product B A only, DoRA's included.
    scale_folds_into: ClassVar[tuple[str, ...]] = ("lora_B",)
    NEUTRAL: ClassVar[dict[str, object]] = {"dropout": 0.0, "rslora": False, "dora": False, "start": "zero"}
    OMIT_IF_NEUTRAL: ClassVar[tuple[str, ...]] = ("rslora", "dora", "start")
    supports_lora: ClassVar[bool] = True
    diffusers_mark: ClassVar[str | None] = "lora"
    lycoris_layer: ClassVar[LycorisLayer | None] = LycorisLayer(
        "LoRA", frozenset(PEFT_NAMES), frozenset({"lora_mid.weight"}), _update, rank_names=("lora_down.weight",),
        peft_names=PEFT_NAMES, without_unknown=_merge_mid, peft_has_dora=True)

    type: Literal["lora"]
    """The adapter type."""
    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs that is dropped in training."""
    rslora: Bool = False
    """Scale by alpha / sqrt(rank) instead, so that a high rank learns as fast as a low one (arXiv:2312.03732)."""
    dora: Bool = False
    """Learn the magnitude of each output separately from the direction of its weights (DoRA, arXiv:2402.09353).
    Slower; ComfyUI and A1111 compute it differently."""
    start: Literal["zero", "pissa"] = "zero"
    """Initial weights: zero (B = 0), or pissa: the principal directions of the base's weights (arXiv:2404.02948); pissa
    needs linear layers."""
    targets: Targets = "attention"
    """Which layers are adapted: attention, attention+ff, blocks (transformers only), linear, all (also
    convolutions), or patterns."""

    @property
    def scale(self) -> float:
        """Factor of the update: alpha / rank, or alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732)."""
        if self.rslora:
            return self.effective_alpha / math.sqrt(self.rank)
        return self.effective_alpha / self.rank

    @property
    def linear_only_reason(self) -> str | None:
        """Clause for `start: pissa`, which decomposes matrices; None otherwise."""
        if not self._is_pissa:
            return None
        return "`start: pissa` splits a weight matrix, and a convolution's weight is not a matrix"

    @property
    def starts_exactly(self) -> bool:
        """False for `start: pissa`, whose two halves cancel only up to rounding."""
        return not self._is_pissa

    @property
    def starts_from_base_weights(self) -> bool:
        """True for `start: pissa`, and for DoRA, whose magnitudes start as norms of the base's weights."""
        return self._is_pissa or self.dora

    @property
    def plain_start(self) -> Mapping[str, str]:
        """`start: zero` in place of PiSSA, and no DoRA."""
        values: dict[str, str] = {}
        if self._is_pissa:
            values["start"] = "zero"
        if self.dora:
            values["dora"] = "false"
        return values

    @property
    def layer_needs(self) -> Mapping[LayerNeed, str]:
        """For `start: pissa` the base's own weights, for DoRA weights that peft can read; nothing otherwise."""
        needs: dict[LayerNeed, str] = {}
        if self._is_pissa:
            needs["own weights"] = "`start: pissa` decomposes the base's original weights, which are not kept"
        if self.dora:
            needs["readable weights"] = "`dora` reads the weights at every step, and peft cannot read these"
        return needs

    def field_problems(self) -> Iterator[KeyProblem]:
        """Yield the settings that `start: pissa` excludes: dropout, DoRA and `init`."""
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
        """peft's config of the frozen LoRA -B0 A0 that subtracts PiSSA's start; None for `start: zero`."""
        if not self._is_pissa:
            return None
        return self._lora_config(modules, use_rslora=self.rslora)

    def initial_weights(self, layers: Mapping[str, nn.Module], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights that peft drew, A [rank, in …] and B [out, rank …]; or PiSSA's, with the frozen pair beside."""
        if not self._is_pissa:
            return state
        return pissa.initial_weights(layers, state, self.scale)

    def to_peft(self, modules: tuple[str, ...],
                state: Mapping[str, Tensor]) -> tuple[LoraConfig, Mapping[str, Tensor]]:
        """The adapter itself; for `start: pissa` a plain LoRA, A [2 rank, in] and B [out, 2 rank]."""
        if not self._is_pissa:
            return self.peft_config(modules), state
        # Trained and frozen pair in one, since no other program knows a second adapter; alpha keeps the scale.
        rank = 2 * self.rank
        return self._lora_config(modules, r=rank, lora_alpha=self.scale * rank), pissa.to_plain_lora(state)

    def to_lora(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A [r, in …] and B [out, r …] with the scale in B; for `start: pissa` r is twice the rank."""
        scaled = {}
        for name, tensor in self._plain_state(state).items():
            if ".lora_B." in name:
                tensor = tensor * self.scale
            scaled[name] = tensor
        return scaled

    def to_lycoris(self, modules: tuple[str, ...], state: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """`lora_down` [r, in …], `lora_up` [out, r …], `alpha` [] and, for DoRA, `dora_scale` [out, 1 …]."""
        import torch

        pairs = self._plain_state(state)
        layers = {}
        for name in modules:
            down, up = pairs[name + pissa.A], pairs[name + pissa.B]
            # Readers know alpha / rank only, so alpha is what gives the scale there, for rsLoRA and PiSSA too.
            alpha = torch.tensor(self.scale * down.shape[0])
            layers[name] = {"lora_down.weight": down, "lora_up.weight": up, "alpha": alpha}
            if self.dora:
                magnitudes = pairs[f"{name}.lora_magnitude_vector"]
                # [out, 1 …] marks magnitudes of outputs: readers take [1, in …] for those of inputs.
                layers[name]["dora_scale"] = magnitudes.reshape(-1, *[1] * (down.dim() - 1))
        return layers

    @property
    def beyond_lora(self) -> str | None:
        """DoRA's magnitudes."""
        return "the DoRA's lengths" if self.dora else None

    @property
    def lycoris_caveat(self) -> str | None:
        """Sentence on DoRA, which other programs compute differently; None without DoRA.

        The magnitudes are norms of the outputs of W + B A. ComfyUI's weight_decompose (comfy/weight_adapter/base.py
        @9c0cf36c; its pull request 15458) divides by the norms of W, and A1111's network.py by those of inputs.
        sd-scripts and diffusers drop `dora_scale`.
        """
        if not self.dora:
            return None
        # This sentence goes into exported model cards: other words would change their bytes.
        return ("ComfyUI scales a DoRA by the lengths of the base's weights, A1111 by those of inputs, and sd-scripts "
                "and diffusers take it for a LoRA, so all of them draw something else than was trained")

    @classmethod
    def import_candidates(cls, given: ImportedAdapter) -> Iterator[ImportCandidate]:
        """Yield the one reading: a LoRA, or a DoRA if there are magnitudes."""
        plain = unify_rank_and_scale(given, given.state, RANK_AXIS, "lora_B.weight")
        settings = dict(plain.settings)
        if any(name.endswith("magnitude_vector") for name in given.state):
            settings["dora"] = True
        yield replace(plain, settings=settings)

    @property
    def _is_pissa(self) -> bool:
        return self.start == "pissa"

    def _plain_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights as one LoRA: for `start: pissa` the trained and the frozen pair in one."""
        if not self._is_pissa:
            return state
        return pissa.to_plain_lora(state)

    def _lora_config(self, modules: tuple[str, ...], **settings: Any) -> LoraConfig:
        from peft import LoraConfig

        return LoraConfig(**{"r": self.rank, "lora_alpha": self.effective_alpha, "target_modules": list(modules),
                             "init_lora_weights": True, **settings})
