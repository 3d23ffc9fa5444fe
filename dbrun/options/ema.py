"""Exponential moving average of the trained weights: its decay, and the step from which it averages."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from dbrun.config_types import Float, Int, Part


class Ema(Part):
    """An exponential moving average (EMA) of all trained weights; exports, samples and held-out losses use it.

    Training itself continues from the weights that are not averaged.
    """

    decay: Annotated[Float, Field(ge=0, lt=1)] = 0.999
    """Share of the average that is kept at each step; in early steps at most (1 + step) / (10 + step)."""
    update_after_step: Annotated[Int, Field(ge=0)] = 0
    """Steps before averaging begins; until then the average equals the weights."""

    def step_limits(self, steps: int) -> Mapping[str, int]:
        """Averaging must begin before the last step, or the average equals the last weights."""
        return {"update_after_step": max(0, steps - 2)}

    def decay_at(self, step: int) -> float:
        """Decay at a step counted from 1, in [0, 1): the warm-up rule of diffusers' EMAModel."""
        averaged_steps = step - self.update_after_step - 1
        if averaged_steps <= 0:
            return 0.0
        # a full decay from the start would keep the untrained weights in the average for thousands of steps
        return min((1 + averaged_steps) / (10 + averaged_steps), self.decay)
