"""Adafactor, which remembers rows and columns instead of whole matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Bool, Float, OrNone
from dbrun.options.optimizers import OptimizerOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

    from dbrun.options.optimizers import ParamGroupDict


class Adafactor(OptimizerOptions):
    """Adafactor (Shazeer and Stern 2018, arXiv:1804.04235) at the recipe's own learning rate."""

    NAME: ClassVar[str] = "adafactor"
    type: Literal["adafactor"]
    """The optimizer."""
    beta1: Annotated[Float | None, Field(ge=0, lt=1), OrNone] = None
    """Decay of the running mean of gradients; left out, none is kept, which halves the memory again."""
    decay_rate: Annotated[Float, Field(gt=-1, lt=0)] = -0.8
    """The running mean of squared gradients decays by 1 - step^decay_rate."""
    clip_threshold: Annotated[Float, Field(gt=0)] = 1.0
    """An update's root mean square is clipped to this."""
    scale_parameter: Bool = False
    """Multiply the learning rate by each parameter's root mean square."""
    weight_decay: Annotated[Float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""

    def build(self, groups: Sequence[ParamGroupDict], learning_rate: float) -> Optimizer:
        """transformers' Adafactor, without a schedule of its own."""
        from transformers.optimization import Adafactor as Made

        made: Optimizer = Made(groups, lr=learning_rate, beta1=self.beta1, decay_rate=self.decay_rate,
                               clip_threshold=self.clip_threshold, scale_parameter=self.scale_parameter,
                               weight_decay=self.weight_decay, relative_step=False, warmup_init=False)
        return made
