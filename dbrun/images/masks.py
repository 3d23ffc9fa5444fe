"""Masks of pictures, from files beside them or from their transparency, reduced to the size of the latents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import RecipeError
from dbrun.images.beside import match_beside
from dbrun.images.buckets import CropBox
from dbrun.images.pixels import read_upright
from dbrun.input_file import file_exists

if TYPE_CHECKING:
    from PIL.Image import Image

MASK_SUFFIXES = (".mask.png", "-masklabel.png")
"""Endings of a mask's name, after its picture's name without suffix; the second one is OneTrainer's."""
MIN_MASK_BRIGHTNESS = 128
"""Least value of a mask's brightest pixel, 0 to 255; below it the mask shows nothing."""


def is_mask(name: str) -> bool:
    """Whether a file's name is that of a mask."""
    return name.lower().endswith(MASK_SUFFIXES)


def masks_of_stems(stems: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Stem of each picture of a folder → its mask there, of names; of two endings the first. Raises RecipeError."""
    stems, masks = list(stems), [name for name in names if is_mask(name)]
    found: dict[str, str] = {}
    if not masks:
        return found
    problems: list[str] = []
    # the last ending first, so that a picture with masks of both endings gets the one of the first
    for ending in reversed(MASK_SUFFIXES):
        found |= match_beside(stems, masks, ending, problems)
    if problems:
        raise RecipeError("\n".join(problems), fix="rename one of them, or delete it")
    return found


def find_mask_files(pictures: Iterable[Path]) -> Mapping[Path, Path]:
    """Map every picture that has a mask beside it to that mask. Raises RecipeError where two could be meant."""
    # one listing per folder instead of look-ups for every picture
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for picture in pictures:
        by_folder[picture.parent].append(picture)
    mask_of: dict[Path, Path] = {}
    for folder, inside in by_folder.items():
        names = sorted(file.name for file in folder.iterdir() if is_mask(file.name) and file_exists(file))
        found = masks_of_stems([picture.stem for picture in inside], names)
        mask_of |= {picture: folder / found[picture.stem] for picture in inside if picture.stem in found}
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
