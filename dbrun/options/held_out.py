"""Held-out pictures: the share that is never trained on, how often its loss is measured, and early stopping."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from dbrun.config_types import Float, Int, OrNone, Part


class HeldOut(Part):
    """Instance images that are never trained on; their loss is a curve of its own.

    Each evaluation uses the same noise at the same timesteps, no dropout, and the weights that an export at that step
    would have.
    """

    # recipes without early stopping keep the cache keys that they had before it came
    NEUTRAL: ClassVar[dict[str, object]] = {"patience": None}

    share: Annotated[Float, Field(gt=0, lt=1)] = 0.1
    """Share of each subject's instance images that is held out, at least one image; chosen by `seed`."""
    every: Annotated[Int, Field(ge=1)] = 50
    """Steps between two evaluations."""
    draws: Annotated[Int, Field(ge=1, le=1000)] = 4
    """Timesteps at which each held-out image is evaluated, spread evenly."""
    patience: Annotated[Int | None, Field(ge=1), OrNone] = None
    """Early stopping: stop after this many evaluations without a lower loss, and export the weights of the best
    evaluation. Left out, train to the last step and export its weights."""

    def step_limits(self, steps: int) -> Mapping[str, int]:
        """The last evaluation may be at the last step."""
        return {"every": steps}
