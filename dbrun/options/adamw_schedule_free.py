"""AdamW that averages its weights instead of lowering its rate."""

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
    """Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682): trains on y, and gives the average x.

    It wants `schedule: {type: constant}`, with a warm-up if any.
    """

    NAME: ClassVar[str] = "adamw_schedule_free"
    REQUIRED_PACKAGE: ClassVar[OptionalPackage | None] = OptionalPackage("schedulefree", "schedulefree", "optimizers")
    HAS_EVAL_WEIGHTS: ClassVar[bool] = True
    type: Literal["adamw_schedule_free"]
    """The optimizer."""
    beta1: Annotated[Float, Field(gt=0, lt=1)] = 0.9
    """How far y lies from the last weights z towards their average x."""
    weight_decay: Annotated[Float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    averaging_power: Annotated[Float, Field(ge=0)] = 0.0
    """Step k counts (k + 1)^averaging_power in the average: more than 0 forgets the first steps sooner."""

    def build(self, groups: Sequence[ParamGroupDict], learning_rate: float) -> Optimizer:
        """schedulefree's AdamWScheduleFree, ready to train."""
        from schedulefree import AdamWScheduleFree as Made

        made: Optimizer = Made(list(groups), lr=learning_rate, r=self.averaging_power, **self.adam_arguments)
        made.train()  # type: ignore[attr-defined]
        return made

    @contextmanager
    def eval_weights(self, optimizer: Optimizer) -> Iterator[None]:
        """x instead of y; y comes back as a copy, since going there and back by arithmetic changes its last bits."""
        import torch

        kept = [(p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
        optimizer.eval()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, as_it_was in kept:
                    parameter.copy_(as_it_was)
            for group in optimizer.param_groups:
                group["train_mode"] = True
