"""What do LoHa and LoKr have in common (Yeh et al. 2023, LyCORIS, arXiv:2309.14859)?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from dbrun.adapters.base import Ranked, Targets
from dbrun.errors import RecipeError
from dbrun.parts import Bool, Float

if TYPE_CHECKING:
    from torch import nn

NEVER = 1e-9
"""A step in which no layer at all learns may be as likely as this."""


class Lycoris(Ranked):
    """An update that is built as a whole weight and added to the frozen one."""

    NEUTRAL: ClassVar[dict[str, object]] = {"dropout": 0.0, "effective_conv": False}

    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """How often a layer's update is left out of a training step."""
    effective_conv: Bool = False
    """Take kernels apart as tensors of their own size (FedPara, proposition 3) rather than as wide matrices."""
    targets: Targets = "attention"
    """Which layers are adapted: attention, attention+ff, linear, all (also convolutions), or patterns."""

    def faults(self) -> Iterator[tuple[str, str, str]]:
        """`effective_conv` where no convolution can be."""
        if self.effective_conv and isinstance(self.targets, str) and self.targets != "all":
            yield ("effective_conv", f"found true, but `targets: {self.targets}` holds no convolution",
                   "write `targets: all`, or leave out `effective_conv`")

    def check(self, layers: Mapping[str, nn.Module]) -> None:
        """Refuse a dropout that would leave out all layers at once, in which case there is nothing to learn from."""
        if self.dropout ** len(layers) > NEVER:
            raise RecipeError(f"found `dropout: {self.dropout:g}` on {len(layers)} layers: in some steps it would "
                              "leave out all of them", fix="lower `dropout`, or adapt more layers")

    def settings(self, modules: tuple[str, ...]) -> dict[str, Any]:
        """What both of peft's configs take."""
        return {"r": self.rank, "alpha": self.strength, "module_dropout": self.dropout,
                "use_effective_conv2d": self.effective_conv, "target_modules": list(modules)}
