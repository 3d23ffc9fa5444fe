"""Small pictures of what training sees of each picture: its crop, with what a mask hides faded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dbrun.errors import RecipeError
from dbrun.images import masks
from dbrun.images.buckets import center_crop
from dbrun.images.thumbnails import small_crop
from dbrun.recipe.schema.model import Recipe
from dbrun.resolve.picture_report import PictureRow, named_pictures
from dbrun.resolve.sources import ResolvedSources
from dbrun.stages.sources import Picture
from dbrun.stages.support.crops import recipe_crop_settings

if TYPE_CHECKING:
    from PIL.Image import Image

    from dbrun.images.buckets import CropBox

FADED = 0.75
"""Share of white in what a mask hides, 0 to 1; the rest is grey, so that nobody takes it for a bright picture."""


def pictures_of_rows(resolved: ResolvedSources) -> list[Picture]:
    """The picture of each row that `picture_rows` gives, in the same order."""
    sources = resolved.sources
    named = [*named_pictures("instance", sources.pictures, resolved),
             *named_pictures("class", sources.class_pictures, resolved)]
    return [picture for _, _, picture in named]


def draw_crops(recipe: Recipe, resolved: ResolvedSources,
               shown: Iterable[tuple[PictureRow, Picture]]) -> Iterator[Image | None]:
    """The first crop of each picture, RGB of at most THUMBNAIL_SIDE pixels; the whole picture while the base that says
    its shape is not here; None for a file that has gone or is broken since it was read.
    """
    settings = recipe_crop_settings(recipe, resolved.sources.base.folder)
    for row, picture in shown:
        boxes = settings.crop_boxes(picture.digest, (row.width, row.height)) if settings else ()
        box = boxes[0] if boxes else None
        try:
            content = resolved.files[picture.digest].read_bytes()
            crop = small_crop(content, box, recipe.images.background, row.name)
            mask = _mask(recipe, resolved, row, picture, content)
        except (OSError, RecipeError):
            yield None
            continue
        yield crop if mask is None else _fade(crop, mask, box)


def _mask(recipe: Recipe, resolved: ResolvedSources, row: PictureRow, picture: Picture, content: bytes) -> Image | None:
    """The mask of a picture (mode L, the picture's size), None without one; the same choice as of `preprocess`."""
    if picture.mask is not None:
        return masks.read_mask(resolved.files[picture.mask].read_bytes(), f"the mask of {row.name}")
    # class pictures of the recipe count everywhere
    if recipe.images.masks == "alpha" and row.half == "instance":
        return masks.read_alpha(content, row.name)
    return None


def _fade(crop: Image, mask: Image, box: CropBox | None) -> Image:
    """The crop, grey and nearly white where its mask is black."""
    from PIL import Image

    frame = box or center_crop(mask.size, mask.size)
    grey = crop.convert("L").convert("RGB")
    hidden = Image.blend(grey, Image.new("RGB", crop.size, "white"), FADED)
    return Image.composite(crop, hidden, masks.shrink_mask(mask, frame, crop.size))
