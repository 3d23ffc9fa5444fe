"""What a base that does not draw from words alone begins with, made of the instance pictures by its family."""

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
"""How many pictures are shown enlarged if the recipe names no prompts."""


@dataclass(frozen=True)
class LowresInputs:
    """pictures: what the columns of before_after.png begin with, in turn; background: put behind transparent ones."""

    pictures: tuple[Picture, ...]
    background: str

    def key(self, column: int) -> dict[str, object]:
        """What a column's picture depends on beside prompt and sampler."""
        return {"start": self.pictures[column % len(self.pictures)].digest, "background": self.background}

    def start_image(self, column: int, files: Mapping[str, Path], resolution: int, family: Family) -> Image:
        """What the family starts from to draw the column's picture, cut to resolution."""
        digest = self.pictures[column % len(self.pictures)].digest
        large = read_square(read_verified(files, digest), resolution, self.background, files[digest].name)
        return family.start_image(large)


def lowres_inputs(recipe: Recipe, sources: Sources) -> LowresInputs | None:
    """The instance pictures for a base that starts from pictures, None for one that draws from words alone."""
    if families()[recipe.base.type].start_image_reason is None:
        return None
    return LowresInputs(sources.pictures, recipe.images.background)
