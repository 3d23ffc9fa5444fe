"""Fonts for texts of users: the one built into Pillow, or one of the system that has the letters it lacks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from dbrun.images.grid import load_font

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "NotoSansCJK-Regular.ttc",
                "wqy-microhei.ttc", "Arial Unicode.ttf", "Arial.ttf", "PingFang.ttc")
"""Files that Pillow looks for in the system's folders of fonts, in this order."""
NO_GLYPH = "\U0010ffff"
"""A character that no font has: it is drawn as every other missing one is, mostly as an empty box."""


def load_font_for(texts: Iterable[str], size: int) -> FreeTypeFont | ImageFont:
    """The font that has the most characters of these texts; of equal ones the first, which is that of Pillow.

    Pillow's own has little more than ASCII: no é, no ×, no Cyrillic and no Chinese.
    """
    from PIL import ImageFont

    characters = {character for text in texts for character in text if not character.isspace()}
    best = load_font(size)
    least = _missing(best, characters)
    for name in SYSTEM_FONTS:
        if least == 0:
            break
        # OSError: it is not on this machine
        with suppress(OSError):
            font = ImageFont.truetype(name, size)
            missing = _missing(font, characters)
            if missing < least:
                best, least = font, missing
    return best


def _missing(font: FreeTypeFont | ImageFont, characters: Iterable[str]) -> int:
    """How many of these characters a font draws as a missing one."""
    box = bytes(font.getmask(NO_GLYPH))
    return sum(bytes(font.getmask(character)) == box for character in characters)
