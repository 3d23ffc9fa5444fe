"""What does a base that only enlarges begin with? Small copies of the instance pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.images.pixels import read_square
from dbrun.models.base import families
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.sources import Picture, Sources
from dbrun.stages.support.inputs import read_verified

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_COLUMNS = 6
"""How many pictures are shown enlarged if the recipe names no prompts."""


@dataclass(frozen=True)
class LowresInputs:
    """pictures: what the columns of before_after.png begin with, in turn; background: put behind transparent ones."""

    pictures: tuple[Picture, ...]
    background: str

    def key(self, column: int) -> dict[str, object]:
        """What a column's picture depends on beside prompt and sampler."""
        return {"start": self.pictures[column % len(self.pictures)].digest, "background": self.background}

    def downscale(self, column: int, files: Mapping[str, Path], resolution: int, side: int) -> Image:
        """The column's picture cut to resolution, then made smaller to side by averaging, as training makes it."""
        digest = self.pictures[column % len(self.pictures)].digest
        large = read_square(read_verified(files, digest), resolution, self.background, files[digest].name)
        return large.reduce(resolution // side)


def lowres_inputs(recipe: Recipe, sources: Sources) -> LowresInputs | None:
    """The instance pictures for a base that enlarges, None for one that draws from words alone."""
    if families()[recipe.base.type].upscale_factor == 1:
        return None
    return LowresInputs(sources.pictures, recipe.images.background)
