"""Which share of the pictures shows how well a training goes, and may end it?"""

from typing import Annotated, ClassVar

from pydantic import Field

from dbrun.config_types import Float, Int, OrNone, Part


class HeldOut(Part):
    """Instance images that are never trained on; their loss is a curve of its own.

    They are looked at again and again with the same noise at the same timesteps, without dropout, under the weights
    that would be exported then.
    """

    NEUTRAL: ClassVar[dict[str, object]] = {"patience": None}

    share: Annotated[Float, Field(gt=0, lt=1)] = 0.1
    """The share of the instance images of each subject, at least one; drawn by `seed`."""
    every: Annotated[Int, Field(ge=1)] = 50
    """Steps between two looks."""
    draws: Annotated[Int, Field(ge=1, le=1000)] = 4
    """Timesteps at which each of them is looked at, spread evenly."""
    patience: Annotated[Int | None, Field(ge=1), OrNone] = None
    """Stop when the loss has not fallen for so many looks, and export the weights of the best look; left out, go on to
    the end, and export what is there."""
