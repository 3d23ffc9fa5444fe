"""The recipe section `train`: the settings of the loop, and the length, checkpoints and scaling around it."""

from typing import Annotated, ClassVar

from pydantic import Field

from dbrun.config_types import Bool, Int, OrNone
from dbrun.training.settings import TrainSettings

DEFAULT_STEPS = 800
"""Optimizer updates where neither `steps` nor `epochs` is given."""


class Train(TrainSettings):
    """How training runs: length, batches, learning rate, optimizer, precision and checkpoints."""

    # results from before these options keep their cache keys
    NEUTRAL: ClassVar[dict[str, object]] = {"epochs": None, "scale_lr": False, "gradient_checkpointing": False}

    epochs: Annotated[Int | None, Field(ge=1, le=1_000_000), OrNone] = None
    """Instead of `steps`: how many times every instance image is shown."""
    scale_lr: Bool = False
    """Multiply every learning rate by the number of instance images per step, `batch_size` × `accumulation`."""
    gradient_checkpointing: Bool = False
    """Recompute activations in the backward pass instead of storing them: much less memory, about a third more time,
    the same result."""
    checkpoint_every: Annotated[Int, Field(ge=1)] = 100
    """Steps between checkpoints; changes no result."""
    keep: Annotated[Int, Field(ge=1, le=1000)] = 2
    """Number of newest checkpoints that are kept; changes no result."""

    @property
    def images_per_step(self) -> int:
        """Instance images per optimizer update."""
        return self.batch_size * self.accumulation

    @property
    def learning_rate_scale(self) -> int:
        """Factor of every learning rate."""
        if self.scale_lr:
            return self.images_per_step
        return 1
