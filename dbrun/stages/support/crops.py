"""The crops in which a picture is encoded, and the loss mask of each."""

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
    """One crop of a picture, or the whole picture before it is cropped.

    name: of its latents; digest: sha256 of the picture's file; label: the picture's name in errors; read: gives the
    file's bytes; size: (width, height) of the picture in pixels after EXIF rotation, None where the crop does not
    depend on it; frame: the part that is shown, None for the centre square; mask: sha256 of its mask file; alpha:
    whether its transparency is its mask; reader: as in `Picture`.
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
        """The cache-key entries that select the pixels of the picture; none for a centre square that Pillow decodes."""
        key: dict[str, object] = {}
        if self.frame is not None:
            frame = self.frame
            key["frame"] = [*frame.resized_size, frame.left, frame.top, *frame.size, frame.mirrored]
        if self.reader:
            key["reader"] = self.reader
        return key

    def time_ids(self, side: int) -> tuple[int, int, int, int, int, int]:
        """The sizes that a denoiser may be told (see `Family.size_conditioned`). side: the recipe's resolution.

        A picture of unknown size is one that the base drew: it is as large as it is shown.
        """
        width, height = self.size or (side, side)
        box = self.frame or center_crop((width, height), (side, side))
        left = box.left
        # the whole picture counts as mirrored: what is cut off on its right was cut off on its left
        if box.mirrored:
            left = box.resized_size[0] - box.size[0] - box.left
        return height, width, box.top, left, box.size[1], box.size[0]


def crop_settings(images: Images, multiple: Callable[[], int], seed: int) -> CropSettings:
    """The crop settings of a recipe's pictures.

    multiple: gives the number that sides must be a multiple of for the base. seed: of random crops.
    """
    side, choice = images.resolution, images.buckets
    if choice is None:
        shapes = buckets.square_shape(side)
    else:
        # a function, since it reads the base's files, which may not be here: called only where the recipe has no step
        step = choice.step or multiple()
        shapes = buckets.bucket_shapes(side, step, choice.min_side or side // 2, choice.max_side or side * 2)
    return CropSettings(shapes, images.random_crops, images.flip, seed)


def recipe_crop_settings(recipe: Recipe, folder: Path | None) -> CropSettings | None:
    """The crop settings of a recipe; None where they depend on a base that is not on this machine yet.

    folder: of the base, None where it is not here.
    """
    choice = recipe.images.buckets
    if choice is not None and choice.step is None and folder is None:
        return None

    def multiple() -> int:
        # called only with a folder: see above
        return families()[recipe.base.type].resolution_multiple(folder or Path())

    return crop_settings(recipe.images, multiple, recipe.seed)


def crops(whole: Crop, settings: CropSettings, side: int) -> list[Crop]:
    """The crops of a picture. The first has the picture's name, further ones are `<name>.001` and so on.

    whole: the picture before it is cropped; side: the recipe's resolution in pixels.
    """
    if whole.size is None:
        return [whole]
    center_square = center_crop(whole.size, (side, side))
    all_crops: list[Crop] = []
    for number, box in enumerate(settings.crop_boxes(whole.digest, whole.size)):
        # None for the centre square: recipes with and without buckets then share its cached item
        frame = None if box == center_square else box
        all_crops.append(replace(whole, name=crop_name(whole.name, number), frame=frame))
    return all_crops


def write_mask(crop: Crop, file: Callable[[], bytes] | None, side: int, cells: Size, folder: Path) -> None:
    """Write the loss mask of a crop to mask.safetensors: float32 [h, w] in [0, 1], one value per latent pixel.

    file: gives the bytes of the mask file, None where the picture's transparency is its mask; side: the recipe's
    resolution; cells: (w, h) of the latents.
    """
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from dbrun.images import masks

    if file is not None:
        mask = masks.read_mask(file(), f"the mask of {crop.label}")
    else:
        # a picture without an alpha channel counts everywhere
        mask = masks.read_alpha(crop.read(), crop.label) or Image.new("L", (side, side), 255)
    frame = crop.frame or center_crop(mask.size, (side, side))
    shrunk = np.array(masks.shrink_mask(mask, frame, cells), dtype=np.float32)
    save_file({"mask": torch.from_numpy(shrunk) / 255.0}, folder / "mask.safetensors")
