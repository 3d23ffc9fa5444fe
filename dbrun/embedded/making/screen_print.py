"""Screen-print style, which ships as a subject: a picture in four inks, chosen by brightness."""

from __future__ import annotations

from functools import cache

from PIL import Image

from dbrun.embedded.making.brush import Rgb, mix

INKS: tuple[Rgb, ...] = ((44, 20, 84), (196, 38, 120), (250, 150, 50), (255, 244, 214))
"""Violet, magenta, orange and cream, from the dark to the light parts of a picture."""
EDGE = 0.7
"""Share of the distance between two inks over which one turns into the other; the rest is flat."""


def screen_print(picture: Image.Image) -> Image.Image:
    """Picture as RGB in four inks, chosen by brightness (ITU-R 601)."""
    levels = picture.convert("L")
    inks = [ink(level) for level in range(256)]
    # one look-up table of 256 values for each colour channel
    channels = [levels.point(list(table)) for table in zip(*inks, strict=True)]
    return Image.merge("RGB", channels)


@cache
def ink(level: int) -> Rgb:
    """Colour in which a brightness of 0 … 255 is printed."""
    place = level / 255 * (len(INKS) - 1)
    lower = min(int(place), len(INKS) - 2)
    # below 0 and above 1 the ink is pure: flat areas with soft edges
    share = (place - lower - 0.5) / EDGE + 0.5
    return mix(INKS[lower], INKS[lower + 1], min(1.0, max(0.0, share)))
