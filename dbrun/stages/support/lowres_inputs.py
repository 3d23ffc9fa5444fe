"""The start images of a base that needs one to draw, such as an upscaler; made of the instance pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.images.pixels import read_square
from dbrun.models.base import Family, families
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.sources import Picture, Sources
from dbrun.stages.support.inputs import read_verified

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_COLUMNS = 6
"""Number of columns of enlarged pictures if the recipe names no prompts."""


@dataclass(frozen=True)
class LowresInputs:
    """The start images of the columns of before_after.png.

    pictures: taken in turn, column after column; background: the colour behind transparent pixels.
    """

    pictures: tuple[Picture, ...]
    background: str

    def key(self, column: int) -> dict[str, object]:
        """The cache-key entries of a column's start image."""
        return {"start": self.pictures[column % len(self.pictures)].digest, "background": self.background}

    def start_image(self, column: int, files: Mapping[str, Path], resolution: int, family: Family) -> Image:
        """The start image of a column, as the family makes it of the picture cropped to a square.

        files: sha256 -> file; resolution: side of the square in pixels. Raises StageFailed where the file changed.
        """
        digest = self.pictures[column % len(self.pictures)].digest
        large = read_square(read_verified(files, digest), resolution, self.background, files[digest].name)
        return family.start_image(large)


def lowres_inputs(recipe: Recipe, sources: Sources) -> LowresInputs | None:
    """The start images for a base that needs them; None for one that draws from text alone."""
    if families()[recipe.base.type].start_image_reason is None:
        return None
    return LowresInputs(sources.pictures, recipe.images.background)
