"""Prodigy, which finds its own learning rate."""

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
"""A factor below this was probably meant for another optimizer."""


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
    """Factor of the estimated rate; 0.5 and 2.0 are usual too."""
    use_bias_correction: Bool = False
    """Adam's bias correction."""
    safeguard_warmup: Bool = False
    """Leave the schedule's factor out of the estimate, so that a warm-up does not raise it."""

    def learning_rate_warning(self, learning_rate: float) -> str | None:
        """A rate for Adam would be hardly any here."""
        if learning_rate >= MIN_LEARNING_RATE:
            return None
        return f"prodigy finds its own rate, of which this is only a factor: {learning_rate:g} is little, 1.0 is usual"

    def build(self, groups: Sequence[ParamGroupDict], learning_rate: float) -> Optimizer:
        """prodigyopt's Prodigy."""
        import io
        from contextlib import redirect_stdout

        from prodigyopt import Prodigy as Made

        # it prints its kind of weight decay
        with redirect_stdout(io.StringIO()):
            made: Optimizer = Made(groups, lr=learning_rate, d_coef=self.d_coef, safeguard_warmup=self.safeguard_warmup,
                                   use_bias_correction=self.use_bias_correction, **self.adam_arguments)
        return made
