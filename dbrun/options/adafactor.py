"""The optimizer Adafactor, which stores row and column statistics instead of a full matrix of second moments."""

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
    """Adafactor (Shazeer and Stern 2018, arXiv:1804.04235) with the recipe's learning rate, not a rate of its own."""

    NAME: ClassVar[str] = "adafactor"
    type: Literal["adafactor"]
    """The optimizer."""
    beta1: Annotated[Float | None, Field(ge=0, lt=1), OrNone] = None
    """Decay of the running mean of gradients; left out, no mean is stored, which saves one value per weight."""
    decay_rate: Annotated[Float, Field(gt=-1, lt=0)] = -0.8
    """Exponent of the decay: the running mean of squared gradients decays by 1 - step^decay_rate."""
    clip_threshold: Annotated[Float, Field(gt=0)] = 1.0
    """Largest root mean square of an update; a larger update is scaled down."""
    scale_parameter: Bool = False
    """Whether each parameter's learning rate is multiplied by its root mean square."""
    weight_decay: Annotated[Float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""

    def build(self, groups: Sequence[ParamGroupDict], learning_rate: float) -> Optimizer:
        """Adafactor of the package transformers."""
        from transformers.optimization import Adafactor as Made

        # relative_step and warmup_init would replace `train.learning_rate` and `train.schedule` by its own
        made: Optimizer = Made(groups, lr=learning_rate, beta1=self.beta1, decay_rate=self.decay_rate,
                               clip_threshold=self.clip_threshold, scale_parameter=self.scale_parameter,
                               weight_decay=self.weight_decay, relative_step=False, warmup_init=False)
        return made
