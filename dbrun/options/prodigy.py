"""The optimizer Prodigy, which estimates its own learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Bool, Float
from dbrun.options.optimizers import AdamLike
from dbrun.options.packages import OptionalPackage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

    from dbrun.options.optimizers import ParamGroupDict


MIN_LEARNING_RATE = 0.05
"""A smaller `learning_rate` was probably meant for another optimizer."""


class Prodigy(AdamLike):
    """Prodigy (Mishchenko and Defazio 2023, arXiv:2306.06101); `learning_rate` is a factor, and 1.0 is usual."""

    NAME: ClassVar[str] = "prodigy"
    REQUIRED_PACKAGE: ClassVar[OptionalPackage | None] = OptionalPackage("prodigyopt", "prodigyopt", "optimizers")
    SINGLE_RATE_REASON: ClassVar[str | None] = "it estimates one rate for all that learns"
    STATES_PER_WEIGHT: ClassVar[int] = 4
    type: Literal["prodigy"]
    """The optimizer."""
    weight_decay: Annotated[Float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    d_coef: Annotated[Float, Field(gt=0)] = 1.0
    """Factor of the estimated rate; usual values are 0.5 to 2.0."""
    use_bias_correction: Bool = False
    """Whether Adam's bias correction is applied."""
    safeguard_warmup: Bool = False
    """Whether the schedule's factor is left out of the estimate, so that a warm-up does not raise the estimate."""

    def learning_rate_warning(self, learning_rate: float) -> str | None:
        """Warning about a factor that looks like a learning rate for Adam; None where the factor is usual."""
        if learning_rate >= MIN_LEARNING_RATE:
            return None
        return (f"{learning_rate:g} is small for prodigy: it estimates the learning rate itself and multiplies it by "
                "this factor; 1.0 is usual")

    def build(self, groups: Sequence[ParamGroupDict], learning_rate: float) -> Optimizer:
        """Prodigy of the package prodigyopt."""
        import io
        from contextlib import redirect_stdout

        from prodigyopt import Prodigy as Made

        # its constructor prints a line about weight decay, and only the ui may print
        with redirect_stdout(io.StringIO()):
            made: Optimizer = Made(groups, lr=learning_rate, d_coef=self.d_coef, safeguard_warmup=self.safeguard_warmup,
                                   use_bias_correction=self.use_bias_correction, **self.adam_arguments)
        return made
