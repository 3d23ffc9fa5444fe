"""Contact sheets: pictures in rows and columns with labels and captions, for a person to compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

COMPRESS_LEVEL = 6
"""Of PNG, 0 to 9: at 9 photographs are 2 % smaller and take three times as long."""
CELL_SIDE = 256
"""Approximate side in pixels at which pictures are shown."""
GAP, MARGIN = 12, 24
BACKGROUND, TEXT_COLOUR, MUTED_COLOUR = "#ffffff", "#1f2328", "#59636e"
MAX_CAPTION_LINES = 5


def draw_grid(rows: Sequence[tuple[str, Sequence[Image]]], captions: Sequence[str]) -> Image:
    """Draw square pictures in rows (label, pictures), with one caption above each column; RGB.

    All pictures have the size of the first one.
    """
    from PIL import Image, ImageDraw

    # measure the text, then the page around it
    font, bold = load_font(17), load_font(21)
    side = display_side(rows[0][1][0].width)
    lines = [wrap_text(caption, font, side) for caption in captions]
    line = round(font.getbbox("Ag|")[3] * 1.3)
    left = MARGIN + max(round(bold.getlength(label)) for label, _ in rows) + MARGIN
    top = MARGIN + line * max(map(len, lines)) + GAP
    width = left + len(captions) * (side + GAP) - GAP + MARGIN
    height = top + len(rows) * (side + GAP) - GAP + MARGIN
    page = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(page)

    for column, caption_lines in enumerate(lines):
        x = left + column * (side + GAP)
        # from the last line upwards: all captions end at the pictures
        for i, text in enumerate(reversed(caption_lines)):
            draw.text((x + side / 2, top - GAP - i * line), text, fill=TEXT_COLOUR, font=font, anchor="ms")
    for row, (label, pictures) in enumerate(rows):
        y = top + row * (side + GAP)
        draw.text((left - MARGIN, y + side / 2), label, fill=MUTED_COLOUR, font=bold, anchor="rm")
        for column, picture in enumerate(pictures):
            page.paste(upscale(picture, side), (left + column * (side + GAP), y))
    return page


def split_row(page: Image, label: str, columns: int) -> list[Image]:
    """The pictures of a sheet that `draw_grid` drew of one row. label: the row's.

    Raises ValueError where the page is no such sheet.
    """
    bold = load_font(21)
    left = MARGIN + round(bold.getlength(label)) + MARGIN
    side = (page.width - left - MARGIN + GAP) // columns - GAP
    top = page.height - MARGIN - side
    if side < 1 or top < 0:
        raise ValueError(f"{page.width}×{page.height} pixels hold no row of {columns} pictures")
    pictures: list[Image] = []
    for column in range(columns):
        x = left + column * (side + GAP)
        pictures.append(page.crop((x, top, x + side, top + side)))
    return pictures


def display_side(side: int) -> int:
    """Side in pixels at which a picture of this side is shown, at most CELL_SIDE × 1.5."""
    if side >= CELL_SIDE:
        return min(side, CELL_SIDE * 3 // 2)
    # a whole factor enlarges every pixel alike
    return side * max(1, round(CELL_SIDE / side))


def upscale(picture: Image, side: int) -> Image:
    """Picture as RGB of side × side pixels, bicubic: smooth, without the haloes of sharper filters."""
    from PIL import Image

    return picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def load_font(size: int) -> FreeTypeFont | ImageFont:
    """Font that is built into Pillow, so that equal text gives equal pixels on every machine."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def wrap_text(text: str, font: FreeTypeFont | ImageFont, width: int) -> list[str]:
    """Text in lines of at most width pixels; at most MAX_CAPTION_LINES, with `…` where a line is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > MAX_CAPTION_LINES:
        lines = [*lines[:MAX_CAPTION_LINES - 1], " ".join(lines[MAX_CAPTION_LINES - 1:])]
    return [_ellipsize(line, font, width) for line in lines]


def _ellipsize(line: str, font: FreeTypeFont | ImageFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


def save_png(picture: Image, path: Path) -> None:
    """Write a picture as PNG in RGB; equal pixels give equal bytes."""
    # no metadata: a date or a path in the file would change its digest
    picture.convert("RGB").save(path, format="PNG", compress_level=COMPRESS_LEVEL)
