"""The crops in which a picture is encoded, and the masks that say what of each is learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dbrun.images import buckets
from dbrun.images.buckets import CropBox, CropSettings, Size, center_crop
from dbrun.images.manifest import crop_name
from dbrun.models.base import families
from dbrun.recipe.schema.images import Images
from dbrun.recipe.schema.model import Recipe


@dataclass(frozen=True)
class Crop:
    """One way in which a picture is encoded.

    name: of its latents; digest: the sha256 of the picture's file; label: what errors call the picture; read: gives
    the file's bytes. size: the picture's width and height once upright, None where they do not count; frame: how it is
    cut, None for the square in its middle. mask: the sha256 of its mask's file, if it has one; alpha: whether its own
    transparency is its mask; reader: as in `Picture`.
    """

    name: str
    digest: str
    label: str
    read: Callable[[], bytes]
    size: Size | None = None
    frame: CropBox | None = None
    mask: str | None = None
    alpha: bool = False
    reader: str | None = None

    def key(self) -> Mapping[str, object]:
        """What beside the picture says which pixels are shown; the middle square needs no words."""
        key: dict[str, object] = {}
        if self.frame is not None:
            frame = self.frame
            key["frame"] = [*frame.resized_size, frame.left, frame.top, *frame.size, frame.mirrored]
        if self.reader:
            key["reader"] = self.reader
        return key


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


def crops(whole: Crop, settings: CropSettings, side: int) -> list[Crop]:
    """The crops of a picture, named after it: the first as it is, further ones `name.001` and so on.

    whole: the picture before it is cut; side: of the square that it is shown as where its size does not count.
    """
    if whole.size is None:
        return [whole]
    middle = center_crop(whole.size, (side, side))
    cut: list[Crop] = []
    for number, box in enumerate(settings.crop_boxes(whole.digest, whole.size)):
        # without a frame its item is the same one as where sizes do not count
        frame = None if box == middle else box
        cut.append(replace(whole, name=crop_name(whole.name, number), frame=frame))
    return cut


def write_mask(crop: Crop, file: Callable[[], bytes] | None, side: int, cells: Size, folder: Path) -> None:
    """Write mask.safetensors: how much of each of width × height cells is to be learnt, float32 [h, w] in [0, 1].

    file: gives the mask's bytes; None where the picture's own transparency is its mask; side: as in `crops`.
    """
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from dbrun.images import masks

    if file is not None:
        mask = masks.read_mask(file(), f"the mask of {crop.label}")
    else:
        # a kind of picture that is never transparent counts everywhere
        mask = masks.read_alpha(crop.read(), crop.label) or Image.new("L", (side, side), 255)
    frame = crop.frame or center_crop(mask.size, (side, side))
    shown = masks.shrink_mask(mask, frame, cells)
    save_file({"mask": torch.from_numpy(np.array(shown, dtype=np.float32)) / 255.0}, folder / "mask.safetensors")
