"""What does a picture look like in the style that ships as a subject: a screen print of four inks?"""

from __future__ import annotations

from functools import cache

from PIL import Image

from dbrun.embedded.making.brush import Rgb, mix

INKS: tuple[Rgb, ...] = ((44, 20, 84), (196, 38, 120), (250, 150, 50), (255, 244, 214))
"""Violet, magenta, orange and cream, for the dark, the middle and the light parts of a picture."""
EDGE = 0.7
"""Share of a step of brightness over which one ink turns into the next; the rest of the step is flat."""


def screen_print(picture: Image.Image) -> Image.Image:
    """The picture in four inks, by brightness (ITU-R 601), RGB."""
    levels = picture.convert("L")
    return Image.merge("RGB", [levels.point([ink(level)[channel] for level in range(256)]) for channel in range(3)])


@cache
def ink(level: int) -> Rgb:
    """The ink that a brightness of 0 … 255 is printed in."""
    place = level / 255 * (len(INKS) - 1)
    lower = min(int(place), len(INKS) - 2)
    share = (place - lower - 0.5) / EDGE + 0.5
    return mix(INKS[lower], INKS[lower + 1], min(1.0, max(0.0, share)))
