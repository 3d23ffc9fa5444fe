"""Multi-resolution ("pyramid") noise, which can replace white noise in training."""

from typing import Annotated

from pydantic import Field

from dbrun.config_types import Float, Int, Part


class Pyramid(Part):
    """Noise of several resolutions, so that large areas change as well (Whitaker 2023, multi-resolution noise)."""

    discount: Annotated[Float, Field(gt=0, le=1)] = 0.4
    """Factor of each coarser level against the level before it."""
    levels: Annotated[Int, Field(ge=1, le=16)] = 6
    """Largest number of levels; fewer where a level has shrunk to one element."""
