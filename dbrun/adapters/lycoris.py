"""What do LoHa and LoKr have in common (Yeh et al. 2023, LyCORIS, arXiv:2309.14859)?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from dbrun.adapters.base import LowRankAdapter, Targets
from dbrun.config_types import Bool, Float
from dbrun.errors import KeyProblem

if TYPE_CHECKING:
    from torch import Tensor

MAX_ALL_DROPPED_PROBABILITY = 1e-9
"""A step in which no layer at all learns may be as likely as this."""


class Lycoris(LowRankAdapter):
    """An update that is built as a whole weight and added to the frozen one."""

    NEUTRAL: ClassVar[dict[str, object]] = {"dropout": 0.0, "effective_conv": False}

    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """How often a layer's update is left out of a training step."""
    effective_conv: Bool = False
    """Take kernels apart as tensors of their own size (FedPara, proposition 3) rather than as wide matrices."""
    targets: Targets = "attention"
    """Which layers are adapted: attention, attention+ff, linear, all (also convolutions), or patterns."""

    def field_problems(self) -> Iterator[KeyProblem]:
        """`effective_conv` where no convolution can be."""
        if self.effective_conv and isinstance(self.targets, str) and self.targets != "all":
            yield KeyProblem("effective_conv", f"found true, but `targets: {self.targets}` holds no convolution",
                             "write `targets: all`, or leave out `effective_conv`")

    def layer_problem(self, shapes: Mapping[str, Sequence[int]]) -> KeyProblem | None:
        """Also where dropout would leave out all layers at once, in which case there is nothing to learn from."""
        if self.dropout ** len(shapes) > MAX_ALL_DROPPED_PROBABILITY:
            return KeyProblem("dropout",
                              f"found {self.dropout:g} on {len(shapes)} layers: in some steps it would leave out all "
                              "of them", "lower `dropout`, or adapt more layers")
        return super().layer_problem(shapes)

    def peft_settings(self, modules: tuple[str, ...]) -> dict[str, Any]:
        """What both of peft's configs take."""
        return {"r": self.rank, "alpha": self.effective_alpha, "module_dropout": self.dropout,
                "use_effective_conv2d": self.effective_conv, "target_modules": list(modules)}

    def weights_by_layer(self, modules: tuple[str, ...],
                         state: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """Each layer's weights by the ends of their names, without small kernels, with an alpha of no effect."""
        import torch

        layers = {name: {key.removeprefix(f"{name}."): tensor for key, tensor in state.items()
                         if key.rpartition(".")[0] == name} for name in modules}
        return {name: {**merge_cp_kernels(layer), "alpha": torch.tensor(float(self.rank))}
                for name, layer in layers.items()}


def merge_cp_kernels(layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A layer without the small kernels of CP decomposition, multiplied into the inner factor: exact, of equal rank.

    By the ends of names. A kernel [r, r, k, k] and a factor [r, in] become [r, in * k * k]; the other one is turned.
    """
    import torch

    out = dict(layer)
    for kernel, outer, inner in (("hada_t1", "hada_w1_a", "hada_w1_b"), ("hada_t2", "hada_w2_a", "hada_w2_b"),
                                 ("lokr_t2", "lokr_w2_a", "lokr_w2_b")):
        if kernel in out:
            out[inner] = torch.einsum("ijkl,jr->irkl", out.pop(kernel), out[inner]).flatten(1)
            out[outer] = out[outer].T
    return out
