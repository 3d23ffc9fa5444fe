"""A contact sheet: many pictures of any shape in columns, each above its caption, its facts and its warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbrun.images.fonts import load_font_for
from dbrun.images.grid import BACKGROUND, CELL_SIDE, GAP, MARGIN, MUTED_COLOUR, TEXT_COLOUR, wrap_text

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

MAX_COLUMNS = 6
WARNING_COLOUR = "#a4420b"
"""Colour of warnings; on white it has the contrast of small text (WCAG AA)."""
EMPTY_COLOUR = "#eaeef2"
"""Colour in place of a picture that cannot be shown."""


@dataclass(frozen=True)
class SheetCell:
    """One picture of a sheet and the texts below it.

    picture: RGB, of at most CELL_SIDE pixels; None where it cannot be shown. caption: its prompt; facts: such as its
    name and size; warnings: what is odd about it.
    """

    picture: Image | None
    caption: str
    facts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts below the picture, in their order."""
        return (self.caption, *self.facts, *self.warnings)


@dataclass(frozen=True)
class SheetSection:
    """Cells below a title."""

    title: str
    cells: Sequence[SheetCell]


@dataclass(frozen=True)
class _TextLine:
    text: str
    colour: str


def draw_contact_sheet(sections: Sequence[SheetSection]) -> Image:
    """Draw the cells of all sections in columns of CELL_SIDE pixels; RGB. sections: not empty, each with a cell."""
    from PIL import Image, ImageDraw

    font = load_font_for((text for section in sections for cell in section.cells for text in cell.texts), 15)
    heading = load_font_for((section.title for section in sections), 20)
    line_height = round(font.getbbox("Ag|")[3] * 1.3)
    title_height = round(heading.getbbox("Ag|")[3] * 1.3)
    longest = max(len(section.cells) for section in sections)
    columns = min(MAX_COLUMNS, max(2, longest))
    width = 2 * MARGIN + columns * (CELL_SIDE + GAP) - GAP

    # every row is as high as its highest picture and its longest text
    layout: list[tuple[list[str], list[_Row]]] = []
    height = MARGIN
    for section in sections:
        title = wrap_text(section.title, heading, width - 2 * MARGIN)
        starts = range(0, len(section.cells), columns)
        rows = [_measure_row(section.cells[start:start + columns], font, line_height) for start in starts]
        layout.append((title, rows))
        height += len(title) * title_height + GAP + sum(row.height for row in rows)

    page = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(page)
    y = MARGIN
    for title, rows in layout:
        for text in title:
            draw.text((MARGIN, y), text, fill=TEXT_COLOUR, font=heading)
            y += title_height
        y += GAP
        for row in rows:
            _draw_row(page, draw, row, y, font)
            y += row.height
    return page


@dataclass(frozen=True)
class _Row:
    """A row of cells. lines: of text below each picture; picture_height: of the highest; all heights in pixels."""

    pictures: Sequence[Image | None]
    lines: Sequence[Sequence[_TextLine]]
    picture_height: int
    line_height: int

    @property
    def height(self) -> int:
        """Height of the row, with the margin below it."""
        return self.picture_height + max(map(len, self.lines)) * self.line_height + MARGIN


def _measure_row(cells: Sequence[SheetCell], font: FreeTypeFont | ImageFont, line_height: int) -> _Row:
    pictures = [_enlarge(cell.picture) for cell in cells]
    heights = [CELL_SIDE // 2 if picture is None else picture.height for picture in pictures]
    return _Row(pictures, [_text_lines(cell, font) for cell in cells], max(heights), line_height)


def _enlarge(picture: Image | None) -> Image | None:
    """A small picture, such as one of a base of 64 pixels, enlarged by a whole factor to at most CELL_SIDE."""
    if picture is None:
        return None
    from PIL import Image

    factor = max(1, CELL_SIDE // max(picture.size))
    if factor == 1:
        return picture
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)


def _text_lines(cell: SheetCell, font: FreeTypeFont | ImageFont) -> list[_TextLine]:
    """The lines below a picture, each at most CELL_SIDE wide."""
    texts = [(cell.caption, TEXT_COLOUR)]
    texts += [(fact, MUTED_COLOUR) for fact in cell.facts]
    texts += [(warning, WARNING_COLOUR) for warning in cell.warnings]
    lines: list[_TextLine] = []
    for text, colour in texts:
        lines += [_TextLine(line, colour) for line in wrap_text(text, font, CELL_SIDE)]
    return lines


def _draw_row(page: Image, draw: ImageDraw, row: _Row, top: int, font: FreeTypeFont | ImageFont) -> None:
    """Draw a row of cells; the pictures stand on one line, and the texts begin below it."""
    bottom = top + row.picture_height
    for column, (picture, lines) in enumerate(zip(row.pictures, row.lines, strict=True)):
        left = MARGIN + column * (CELL_SIDE + GAP)
        if picture is None:
            draw.rectangle((left, top, left + CELL_SIDE - 1, bottom - 1), fill=EMPTY_COLOUR)
        else:
            page.paste(picture, (left, bottom - picture.height))
        for number, line in enumerate(lines):
            draw.text((left, bottom + GAP // 2 + number * row.line_height), line.text, fill=line.colour, font=font)
