"""Does a picture show anything, or is it black or of one colour?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from dbrun.errors import RecipeError
from dbrun.images.pixels import read_square
from dbrun.images.validation import REMOVE_FIX

if TYPE_CHECKING:
    from PIL.Image import Image

MIN_CONTRAST = 6
"""Grey levels (of 255) that the darkest and brightest pixel of a real picture differ by at least."""
MIN_BRIGHTNESS = 16
"""A picture whose brightest pixel is darker than this is black."""
CHECK_SIDE = 64
"""Pixels of the square on which a file is judged: what training cuts from it, only smaller."""


def blank_reason(picture: Image) -> str:
    """Why a picture is no class image: "black", "of one colour", or "" for a good one."""
    channels = cast(tuple[tuple[int, int], ...], picture.convert("RGB").getextrema())
    if max(high for _, high in channels) < MIN_BRIGHTNESS:
        return "black"
    return "of one colour" if all(high - low < MIN_CONTRAST for low, high in channels) else ""


def check_not_blank(path: Path, background: str) -> None:
    """Raise RecipeError for a file whose square, over background (`#rrggbb`), is black or of one colour."""
    if why := blank_reason(read_square(path.read_bytes(), CHECK_SIDE, background, path.name)):
        raise RecipeError(f"{path}: the picture is {why}", fix=REMOVE_FIX)
