"""The optimizer Lion, which updates by the sign of a running mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Float
from dbrun.options.optimizers import OptimizerOptions
from dbrun.options.packages import OptionalPackage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

    from dbrun.options.optimizers import ParamGroupDict


class Lion(OptimizerOptions):
    """Lion (Chen et al. 2023, arXiv:2302.06675); use a third to a tenth of AdamW's learning rate."""

    NAME: ClassVar[str] = "lion"
    REQUIRED_PACKAGE: ClassVar[OptionalPackage | None] = OptionalPackage("lion-pytorch", "lion_pytorch", "optimizers")
    ELEMENTWISE: ClassVar[bool] = True
    type: Literal["lion"]
    """The optimizer."""
    beta1: Annotated[Float, Field(ge=0, lt=1)] = 0.9
    """Share of the running mean in an update; the rest is the current gradient."""
    beta2: Annotated[Float, Field(ge=0, lt=1)] = 0.99
    """Decay of the running mean of gradients."""
    weight_decay: Annotated[Float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""

    def build(self, groups: Sequence[ParamGroupDict], learning_rate: float) -> Optimizer:
        """Lion of the package lion-pytorch."""
        from lion_pytorch import Lion as Made

        made: Optimizer = Made(list(groups), lr=learning_rate, betas=(self.beta1, self.beta2),
                               weight_decay=self.weight_decay)
        return made
