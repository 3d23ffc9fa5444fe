"""Masks of pictures: the files beside them or their own transparency, and how much of each latent cell they show."""

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
"""How a mask's name ends, after that of its picture without suffix; the second is OneTrainer's."""
MIN_MASK_BRIGHTNESS = 128
"""A mask whose brightest pixel is darker than this shows nothing."""


def is_mask(name: str) -> bool:
    """Whether a file's name says that it is a mask."""
    return name.lower().endswith(MASK_SUFFIXES)


def picture_stem(name: str) -> str:
    """The name of a mask's picture, without suffix."""
    endings = [ending for ending in MASK_SUFFIXES if name.lower().endswith(ending)]
    return name[:-max(map(len, endings))]


def find_mask_files(pictures: Iterable[Path]) -> Mapping[Path, Path]:
    """Of each picture that has one the mask beside it."""
    masks_in: dict[Path, set[str]] = {}
    found: dict[Path, Path] = {}
    for picture in pictures:
        folder = picture.parent
        if folder not in masks_in:
            masks_in[folder] = {file.name for file in folder.iterdir() if is_mask(file.name)}
        # the first ending comes first where a picture has masks of both
        for ending in MASK_SUFFIXES:
            name = picture.stem + ending
            if name in masks_in[folder] and (folder / name).is_file():
                found[picture] = folder / name
                break
    return found


def read_mask(content: bytes, name: str) -> Image:
    """A mask file as grey pixels, white where the picture is to be learnt; what is transparent is black.

    Raises RecipeError where it is no picture, or shows nothing.
    """
    from PIL import Image

    picture = read_upright(content, name)
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
    return _check_not_empty(picture.convert("L"), name, "white where the picture is to be learnt, black elsewhere")


def read_alpha(content: bytes, name: str) -> Image | None:
    """Where a picture is not transparent, as grey pixels; None for a kind of picture that never is.

    Raises RecipeError for one that is transparent all over.
    """
    picture = read_upright(content, name)
    if picture.mode != "RGBA":
        return None
    return _check_not_empty(picture.getchannel("A"), name, "a picture with something on it")


def shrink_mask(mask: Image, frame: CropBox, size: tuple[int, int]) -> Image:
    """How much of the mask lies in each of width × height cells of what the frame shows, 0 to 255."""
    from PIL import Image, ImageOps

    shrunk = mask.resize(size, Image.Resampling.BOX, box=frame.source_box(mask.size))
    return ImageOps.mirror(shrunk) if frame.mirrored else shrunk


def check_mask(mask: Path, size: tuple[int, int]) -> None:
    """Raise RecipeError for a mask that shows nothing or is of another size than its picture."""
    found = read_mask(mask.read_bytes(), str(mask)).size
    if found != size:
        raise RecipeError(f"{mask}: found {found[0]}×{found[1]} pixels, but its picture has {size[0]}×{size[1]}",
                          fix="save the mask in its picture's size")


def _check_not_empty(mask: Image, name: str, wanted: str) -> Image:
    extrema = mask.getextrema()
    brightest = extrema[1]
    if not isinstance(brightest, int | float) or brightest < MIN_MASK_BRIGHTNESS:
        raise RecipeError(f"{name} masks everything: nothing of the picture would be learnt", fix=f"give it {wanted}")
    return mask
