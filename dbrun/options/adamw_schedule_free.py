"""The optimizer schedule-free AdamW, which averages its weights instead of lowering the learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Float
from dbrun.options.optimizers import AdamLike
from dbrun.options.packages import OptionalPackage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

    from dbrun.options.optimizers import ParamGroupDict


class AdamWScheduleFree(AdamLike):
    """Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682): trains at the point y, exports the average x.

    Use it with `schedule: {type: constant}`; a warm-up is fine.
    """

    NAME: ClassVar[str] = "adamw_schedule_free"
    REQUIRED_PACKAGE: ClassVar[OptionalPackage | None] = OptionalPackage("schedulefree", "schedulefree", "optimizers")
    HAS_EVAL_WEIGHTS: ClassVar[bool] = True
    ELEMENTWISE: ClassVar[bool] = True
    type: Literal["adamw_schedule_free"]
    """The optimizer."""
    beta1: Annotated[Float, Field(gt=0, lt=1)] = 0.9
    """Position of y between the latest weights z (0) and their average x (1)."""
    weight_decay: Annotated[Float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    averaging_power: Annotated[Float, Field(ge=0)] = 0.0
    """Weight of step k in the average is (k + 1)^averaging_power; above 0, early steps count less."""

    def build(self, groups: Sequence[ParamGroupDict], learning_rate: float) -> Optimizer:
        """AdamWScheduleFree of the package schedulefree, in its training mode."""
        from schedulefree import AdamWScheduleFree as Made

        made: Optimizer = Made(list(groups), lr=learning_rate, r=self.averaging_power, **self.adam_arguments)
        # it begins in evaluation mode, and its step() raises there
        made.train()  # type: ignore[attr-defined]
        return made

    @contextmanager
    def eval_weights(self, optimizer: Optimizer) -> Iterator[None]:
        """Context manager: swap in the average x; restore the training weights y bit for bit on exit."""
        import torch

        # the optimizer's own eval() and train() compute x from y and y from x, which changes the last bits of y:
        # the number of evaluations would change the result
        training_weights = [(p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
        optimizer.eval()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, y in training_weights:
                    parameter.copy_(y)
            for group in optimizer.param_groups:
                group["train_mode"] = True
