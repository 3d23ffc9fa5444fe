"""Which average of the trained weights is exported?"""

from typing import Annotated

from pydantic import Field

from dbrun.config_types import Float, Int, Part


class Ema(Part):
    """An exponential moving average of all that learns; it is what is exported, sampled and held out against.

    Training itself goes on from the weights as they are.
    """

    decay: Annotated[Float, Field(ge=0, lt=1)] = 0.999
    """How much of the average stays at a step; in early steps less, (1 + step) / (10 + step)."""
    update_after_step: Annotated[Int, Field(ge=0)] = 0
    """Steps during which the average only follows the weights."""

    def decay_at(self, step: int) -> float:
        """The decay of the step of this number, counted from 1, as diffusers' EMAModel has it."""
        since = step - self.update_after_step - 1
        return min((1 + since) / (10 + since), self.decay) if since > 0 else 0.0
