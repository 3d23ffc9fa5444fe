"""In which ways is each picture of the recipe shown, and what of it is to be learnt?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dbrun.images import buckets
from dbrun.images.buckets import CropBox, CropSettings, Size, center_crop
from dbrun.models.base import families
from dbrun.recipe.schema.images import Images
from dbrun.recipe.schema.model import Recipe


@dataclass(frozen=True)
class SourceImage:
    """A picture. digest: the sha256 of its file; name: what errors call it; read: gives the file's bytes.

    size: its width and height once upright, where they count; mask: the digest of its mask's file, if it has one;
    reader: as in `Picture`.
    """

    digest: str
    name: str
    read: Callable[[], bytes]
    size: Size | None = None
    mask: str | None = None
    reader: str | None = None


@dataclass(frozen=True)
class Crop:
    """One way of showing a picture. name: its latents'; frame: how it is cut, None for the square in its middle."""

    name: str
    source: SourceImage
    frame: CropBox | None

    def key(self) -> Mapping[str, object]:
        """What beside the picture says which pixels are shown; the middle square needs no words."""
        frame, reader = self.frame, {"reader": self.source.reader} if self.source.reader else {}
        return reader if frame is None else {
            "frame": [*frame.resized_size, frame.left, frame.top, *frame.size, frame.mirrored], **reader}


def crop_settings(images: Images, multiple: Callable[[], int], seed: int) -> CropSettings:
    """How pictures are cut. multiple: what the base wants of sides, asked only where the recipe does not say it."""
    side, asked = images.resolution, images.buckets
    if asked is None:
        shapes = buckets.square_shape(side)
    else:
        step = asked.step or multiple()
        shapes = buckets.bucket_shapes(side, step, asked.min_side or side // 2, asked.max_side or side * 2)
    return CropSettings(shapes, images.random_crops, images.flip, seed)


def recipe_crop_settings(recipe: Recipe, folder: Path | None) -> CropSettings | None:
    """How a recipe's pictures are cut; None where that depends on a base, in folder, that is not here yet."""
    asked = recipe.images.buckets
    if asked is not None and asked.step is None and folder is None:
        return None
    return crop_settings(recipe.images, lambda: families()[recipe.base.type].resolution_multiple(folder or Path()),
                         recipe.seed)


def crops(name: str, source: SourceImage, cut: CropSettings, side: int) -> list[Crop]:
    """The views of a picture, named after it: the first `name`, further ones `name.001` and so on.

    side: of the square that a picture is shown as where its size does not count.
    """
    if source.size is None:
        return [Crop(name, source, None)]
    middle = center_crop(source.size, (side, side))
    frames = [None if frame == middle else frame for frame in cut.crop_boxes(source.digest, source.size)]
    return [Crop(f"{name}.{number:03d}" if number else name, source, frame) for number, frame in enumerate(frames)]


def write_mask(view: Crop, file: Callable[[], bytes] | None, side: int, cells: Size, folder: Path) -> None:
    """Write mask.safetensors: how much of each of width × height cells is to be learnt, float32 [h, w] in [0, 1].

    file: gives the mask's bytes; None where the picture's own transparency is its mask; side: as in `crops`.
    """
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from dbrun.images import masks

    name = view.source.name
    if file is not None:
        mask = masks.read_mask(file(), f"the mask of {name}")
    else:
        mask = masks.read_alpha(view.source.read(), name) or Image.new("L", (side, side), 255)
    shown = masks.shrink_mask(mask, view.frame or center_crop(mask.size, (side, side)), cells)
    save_file({"mask": torch.from_numpy(np.array(shown, dtype=np.float32)) / 255.0}, folder / "mask.safetensors")
