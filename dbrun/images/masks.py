"""Masks of pictures, from files beside them or from their transparency, reduced to the size of the latents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import RecipeError
from dbrun.images.buckets import CropBox
from dbrun.images.pixels import read_upright

if TYPE_CHECKING:
    from PIL.Image import Image

MASK_SUFFIXES = (".mask.png", "-masklabel.png")
"""Endings of a mask's name, after its picture's name without suffix; the second one is OneTrainer's."""
MIN_MASK_BRIGHTNESS = 128
"""Least value of a mask's brightest pixel, 0 to 255; below it the mask shows nothing."""


def is_mask(name: str) -> bool:
    """Whether a file's name is that of a mask."""
    return name.lower().endswith(MASK_SUFFIXES)


def picture_stem(name: str) -> str:
    """Name of a mask's picture, without suffix."""
    endings = [ending for ending in MASK_SUFFIXES if name.lower().endswith(ending)]
    return name[:-max(map(len, endings))]


def find_mask_files(pictures: Iterable[Path]) -> Mapping[Path, Path]:
    """Map every picture that has a mask beside it to that mask."""
    # one listing per folder instead of look-ups for every picture
    masks_in: dict[Path, set[str]] = {}
    mask_of: dict[Path, Path] = {}
    for picture in pictures:
        folder = picture.parent
        if folder not in masks_in:
            masks_in[folder] = {file.name for file in folder.iterdir() if is_mask(file.name)}
        # a picture with masks of both endings gets the one of the first
        for ending in MASK_SUFFIXES:
            name = picture.stem + ending
            if name in masks_in[folder] and (folder / name).is_file():
                mask_of[picture] = folder / name
                break
    return mask_of


def read_mask(content: bytes, name: str) -> Image:
    """Read a mask file as grey pixels (mode L): white where the picture is learnt; transparent parts become black.

    content: the file's bytes; name: the mask's name in errors. Raises RecipeError for no picture or an empty mask.
    """
    from PIL import Image

    picture = read_upright(content, name)
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
    return _check_not_empty(picture.convert("L"), name, "white where the picture is to be learnt, black elsewhere")


def read_alpha(content: bytes, name: str) -> Image | None:
    """Read a picture's opacity as grey pixels (mode L), 255 where it is opaque; None for a picture without alpha.

    Raises RecipeError for a picture that is transparent everywhere.
    """
    picture = read_upright(content, name)
    if picture.mode != "RGBA":
        return None
    return _check_not_empty(picture.getchannel("A"), name, "a picture with something on it")


def shrink_mask(mask: Image, frame: CropBox, size: tuple[int, int]) -> Image:
    """Mask of the crop `frame`, reduced to size = (width, height) latent cells: the mean of each cell, 0 to 255."""
    from PIL import Image, ImageOps

    # BOX is the plain mean: a cell that is half masked gets half the weight in the loss
    shrunk = mask.resize(size, Image.Resampling.BOX, box=frame.source_box(mask.size))
    if frame.mirrored:
        return ImageOps.mirror(shrunk)
    return shrunk


def check_mask(mask: Path, size: tuple[int, int]) -> None:
    """Raise RecipeError for a mask that is empty or has another size than its picture. size: (width, height)."""
    width, height = read_mask(mask.read_bytes(), str(mask)).size
    if (width, height) != size:
        raise RecipeError(f"{mask}: found {width}×{height} pixels, but its picture has {size[0]}×{size[1]}",
                          fix="save the mask in its picture's size")


def _check_not_empty(mask: Image, name: str, wanted: str) -> Image:
    extrema = mask.getextrema()
    brightest = extrema[1]
    if not isinstance(brightest, int | float) or brightest < MIN_MASK_BRIGHTNESS:
        raise RecipeError(f"{name} masks everything: nothing of the picture would be learnt", fix=f"give it {wanted}")
    return mask
