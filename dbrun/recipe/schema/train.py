"""What a recipe may say of the training."""

from typing import Annotated, ClassVar

from pydantic import Field

from dbrun.config_types import Bool, Int, OrNone
from dbrun.training.settings import TrainSettings

DEFAULT_STEPS = 800
"""Optimizer updates where neither steps nor epochs are given."""


class Train(TrainSettings):
    """The training."""

    NEUTRAL: ClassVar[dict[str, object]] = {"epochs": None, "scale_lr": False, "gradient_checkpointing": False}

    epochs: Annotated[Int | None, Field(ge=1, le=1_000_000), OrNone] = None
    """Instead of `steps`: how often every instance image is shown."""
    scale_lr: Bool = False
    """Multiply every learning rate by the instance images of a step, `accumulation` × `batch_size`."""
    gradient_checkpointing: Bool = False
    """Compute activations twice instead of keeping them: much less memory, about a third more time, the same result."""
    checkpoint_every: Annotated[Int, Field(ge=1)] = 100
    """Steps between checkpoints; changes no result."""
    keep: Annotated[Int, Field(ge=1, le=1000)] = 2
    """How many checkpoints stay; changes no result."""

    @property
    def images_per_step(self) -> int:
        """Instance images in an optimizer update."""
        return self.batch_size * self.accumulation

    @property
    def learning_rate_scale(self) -> int:
        """What every learning rate is multiplied by."""
        return self.images_per_step if self.scale_lr else 1
