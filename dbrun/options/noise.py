"""What noise is put on a sample besides plain white one?"""

from typing import Annotated

from pydantic import Field

from dbrun.config_types import Float, Int, Part


class Pyramid(Part):
    """Noise of several resolutions, so that large areas change as well (Whitaker 2023, multi-resolution noise)."""

    discount: Annotated[Float, Field(gt=0, le=1)] = 0.4
    """What each coarser level is multiplied by."""
    levels: Annotated[Int, Field(ge=1, le=16)] = 6
    """How many levels at most; the coarsest is one element large."""
