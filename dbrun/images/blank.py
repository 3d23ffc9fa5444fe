"""Check that a picture shows something: it is neither black nor of one colour."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from dbrun.errors import RecipeError
from dbrun.images.pixels import read_square
from dbrun.images.validation import REMOVE_FIX

if TYPE_CHECKING:
    from PIL.Image import Image

MIN_CONTRAST = 6
"""Least difference between the darkest and the brightest pixel of a real picture, in grey levels 0 to 255."""
MIN_BRIGHTNESS = 16
"""Least value of the brightest pixel, in grey levels 0 to 255; below it a picture is black."""
CHECK_SIDE = 64
"""Side in pixels of the square on which a file is judged: the same crop as for training, only smaller."""


def blank_reason(picture: Image) -> str:
    """Reason why a picture cannot be a class image: "black", "of one colour", or "" where it can."""
    # a base in half precision that overflows draws black or flat pictures, which would teach nothing
    channels = cast(tuple[tuple[int, int], ...], picture.convert("RGB").getextrema())
    if max(high for _, high in channels) < MIN_BRIGHTNESS:
        return "black"
    if all(high - low < MIN_CONTRAST for low, high in channels):
        return "of one colour"
    return ""


def check_not_blank(path: Path, background: str) -> None:
    """Raise RecipeError for a file whose centre square, over background (`#rrggbb`), is black or of one colour."""
    square = read_square(path.read_bytes(), CHECK_SIDE, background, path.name)
    reason = blank_reason(square)
    if reason:
        raise RecipeError(f"{path}: the picture is {reason}", fix=REMOVE_FIX)
