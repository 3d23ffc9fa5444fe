"""Base class of LoHa and LoKr, the two LyCORIS types (Yeh et al. 2023, LyCORIS, arXiv:2309.14859)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from dbrun.adapters.base import LayerNeed, LowRankAdapter, Targets
from dbrun.config_types import Bool, Float
from dbrun.errors import KeyProblem

if TYPE_CHECKING:
    from torch import Tensor

MAX_ALL_DROPPED_PROBABILITY = 1e-9
"""Largest allowed probability that a training step drops the updates of all layers."""


class Lycoris(LowRankAdapter):
    """Base class of adapters that build their update as a whole weight and add it to the frozen one."""

    NEUTRAL: ClassVar[dict[str, object]] = {"dropout": 0.0, "effective_conv": False}

    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Probability that a training step leaves out a layer's update."""
    effective_conv: Bool = False
    """Decompose convolution kernels as tensors of their own size (FedPara, proposition 3), not as wide matrices."""
    targets: Targets = "attention"
    """Which layers are adapted: attention, attention+ff, blocks (transformers only), linear, all (also
    convolutions), or patterns."""

    @property
    def layer_needs(self) -> Mapping[LayerNeed, str]:
        """A weight of the layer's shape, which the update gets."""
        return {"weight shape": "peft gives its update the shape of the stored weight, which is packed here"}

    def field_problems(self) -> Iterator[KeyProblem]:
        """Yield a problem for `effective_conv` with a preset that contains no convolution."""
        # Only a preset is judged: what a list of patterns matches is known with the model alone.
        if self.effective_conv and isinstance(self.targets, str) and self.targets != "all":
            yield KeyProblem("effective_conv", f"found true, but `targets: {self.targets}` holds no convolution",
                             "write `targets: all`, or leave out `effective_conv`")

    def layer_problem(self, shapes: Mapping[str, Sequence[int]]) -> KeyProblem | None:
        """Problem of the base class, or a dropout that would drop the updates of all layers at once."""
        # In such a step nothing that requires a gradient takes part in the loss, and backward() raises.
        if self.dropout ** len(shapes) > MAX_ALL_DROPPED_PROBABILITY:
            return KeyProblem("dropout",
                              f"found {self.dropout:g} on {len(shapes)} layers: in some steps it would leave out all "
                              "of them", "lower `dropout`, or adapt more layers")
        return super().layer_problem(shapes)

    def peft_settings(self, modules: tuple[str, ...]) -> dict[str, Any]:
        """Settings that peft's configs of both types share; modules: full names of the adapted layers."""
        return {"r": self.rank, "alpha": self.effective_alpha, "module_dropout": self.dropout,
                "use_effective_conv2d": self.effective_conv, "target_modules": list(modules)}

    def weights_by_layer(self, modules: tuple[str, ...],
                         state: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """Layer -> end of the name -> tensor, with CP kernels multiplied in.

        Factors are [side, r] or [r, side]; `alpha` [] equals the rank, so that the scale alpha / rank is 1.
        """
        import torch

        layers = {}
        for name in modules:
            own = {key.removeprefix(f"{name}."): tensor for key, tensor in state.items()
                   if key.rpartition(".")[0] == name}
            # An alpha without effect: the caller has multiplied the scale into a factor.
            layers[name] = {**merge_cp_kernels(own), "alpha": torch.tensor(float(self.rank))}
        return layers


def merge_cp_kernels(layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One layer's tensors with the kernels of the CP decomposition multiplied into the inner factor.

    Exact and of equal rank. layer: end of the name -> tensor. A kernel [r, r, k, k] and its inner factor [r, in]
    become [r, in * k * k]; the outer factor [r, out] is transposed to [out, r].
    """
    import torch

    merged = dict(layer)
    for kernel, outer, inner in (("hada_t1", "hada_w1_a", "hada_w1_b"), ("hada_t2", "hada_w2_a", "hada_w2_b"),
                                 ("lokr_t2", "lokr_w2_a", "lokr_w2_b")):
        if kernel in merged:
            wide = torch.einsum("ijkl,jr->irkl", merged.pop(kernel), merged[inner])
            merged[inner] = wide.flatten(1)
            # With a kernel LyCORIS stores this factor transposed, [r, out]; without one it is [out, r].
            merged[outer] = merged[outer].T
    return merged
