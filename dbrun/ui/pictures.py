"""The table and the contact sheet of `plan --pictures`: each picture with its prompt and what is odd about it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dbrun.images.contact_sheet import SheetCell, SheetSection
from dbrun.images.thumbnails import every_nth
from dbrun.resolve.picture_report import PictureRow
from dbrun.resolve.picture_shapes import LARGE_CROP_SHARE
from dbrun.secrets import redact_secrets
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import display_width, paint, pluralize, terminal_width, truncate

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_TEXT_COLUMNS = 40
"""Terminal columns of a name or prompt at most; on a narrow screen both are cut further."""
HEAD = ("picture", "pixels", "shape", "cut off", "ways", "mask", "prompt")
NAME, PROMPT = 0, 6
"""Indices in HEAD."""
MAX_SHEET_PICTURES = 96
"""Pictures of a contact sheet at most: 16 rows, about 6,000 pixels high."""
ALWAYS_SHOWN = (NAME, 1, 2, 3, PROMPT)
"""Indices in HEAD; the other columns are shown only if their values differ."""


def picture_table(rows: Sequence[PictureRow]) -> str:
    """A table with a row for each picture, then the number of pictures of each shape, and of odd ones."""
    cells = [_row_cells(row) for row in rows]
    used = [column for column in range(len(HEAD)) if column in ALWAYS_SHOWN or _differs(cells, column)]
    name_width, prompt_width = _text_widths(cells, used)
    shown = []
    for line in cells:
        middle = [line[column] for column in used[1:-1]]
        shown.append([_elide_middle(line[NAME], name_width), *middle, truncate(line[PROMPT], prompt_width)])
    lines = align_rows(shown, head=[HEAD[column] for column in used]).splitlines()
    # From the last row up, because a text below its row moves all lines after it.
    for number in reversed(range(len(rows))):
        odd = "; ".join(rows[number].odd)
        if odd:
            fits = display_width(lines[number + 1]) + 2 + display_width(odd) <= terminal_width(sys.stdout)
            separator = "  " if fits else "\n    "
            lines[number + 1] += separator + paint(odd, "yellow", sys.stdout)
    return "\n".join([*lines, "", summary_text(rows)])


def _differs(cells: Sequence[Sequence[str]], column: int) -> bool:
    return len({line[column] for line in cells}) > 1


def _text_widths(cells: Sequence[Sequence[str]], used: Sequence[int]) -> tuple[int, int]:
    """Terminal columns for the name and for the prompt, in what the other columns leave free."""
    free = terminal_width(sys.stdout) - 2 * (len(used) - 1)
    for column in used[1:-1]:
        free -= max(display_width(line[column]) for line in (HEAD, *cells))
    free = max(30, free)
    longest_name = max(display_width(line[NAME]) for line in (HEAD, *cells))
    longest_prompt = max(display_width(line[PROMPT]) for line in cells)
    # The name may take what short prompts leave, and half in any case: it tells the rows apart.
    name_width = min(longest_name, MAX_TEXT_COLUMNS, max(free // 2, free - longest_prompt))
    return name_width, min(MAX_TEXT_COLUMNS, free - name_width)


def _row_cells(row: PictureRow) -> tuple[str, ...]:
    name = f"{row.name} (class)" if row.half == "class" else row.name
    shape = f"{row.shape[0]}×{row.shape[1]}" if row.shape else "?"
    # Below half a percent it would read 0%.
    cut_off = f"{row.lost:.0%}" if row.lost >= 0.005 else ""
    mask = "yes" if row.mask else ""
    return name, f"{row.width}×{row.height}", shape, cut_off, str(row.ways), mask, row.prompt


def summary_text(rows: Sequence[PictureRow]) -> str:
    """The number of pictures, of each shape, and of odd ones."""
    shapes = Counter(row.shape for row in rows if row.shape)
    text = pluralize(len(rows), "picture")
    if shapes:
        text += ": " + ", ".join(f"{count} of {shape[0]}×{shape[1]}" for shape, count in sorted(shapes.items()))
    odd = sum(bool(row.odd) for row in rows)
    return f"{text}; {odd or 'none'} with problems"


def choose_for_sheet(rows: Sequence[PictureRow]) -> list[int]:
    """Indices of at most MAX_SHEET_PICTURES rows, in order: the odd ones first of all, the others evenly spread."""
    odd = [index for index, row in enumerate(rows) if row.odd]
    others = [index for index, row in enumerate(rows) if not row.odd]
    chosen = [odd[place] for place in every_nth(len(odd), MAX_SHEET_PICTURES)]
    room = MAX_SHEET_PICTURES - len(chosen)
    if room:
        chosen += [others[place] for place in every_nth(len(others), room)]
    return sorted(chosen)


def sheet_sections(name: str, rows: Sequence[PictureRow],
                   shown: Sequence[tuple[PictureRow, Image | None]]) -> list[SheetSection]:
    """The sections of a contact sheet: a recipe's pictures, then its class pictures. name: the recipe's.

    rows: of all pictures; shown: of some of them, each with its crop.
    """
    sections: list[SheetSection] = []
    for half, what in (("instance", ""), ("class", ", class pictures")):
        own = [row for row in rows if row.half == half]
        cells = [_sheet_cell(row, crop) for row, crop in shown if row.half == half]
        if not cells:
            continue
        title = f"{name}{what}: {summary_text(own).replace('×', ' x ')}"
        if len(cells) < len(own):
            title += f"; {len(cells)} of them are shown"
        sections.append(SheetSection(redact_secrets(title), cells))
    return sections


def _sheet_cell(row: PictureRow, crop: Image | None) -> SheetCell:
    # not `×`, which the font built into Pillow does not have
    size = f"{row.width} x {row.height}"
    if row.shape is not None:
        size += f" to {row.shape[0]} x {row.shape[1]}"
    details: list[str] = []
    # a larger part is one of the warnings
    if 0.005 <= row.lost < LARGE_CROP_SHARE:
        details.append(f"{row.lost:.0%} cut off")
    if row.ways > 1:
        details.append(f"one of {row.ways} crops")
    if row.mask:
        details.append("grey: masked out")
    if row.shape is None:
        details.append("the shape is known once the base is here")
    facts = [redact_secrets(row.name), size, *details]
    return SheetCell(crop, redact_secrets(row.prompt), tuple(facts), row.odd)


def _elide_middle(name: str, room: int) -> str:
    """A name of at most room columns, shortened in the middle: names of pictures differ at their ends."""
    from rich.cells import cell_len, set_cell_size, split_text

    width = cell_len(name)
    if width <= room:
        return name
    before = (room - 1) // 2
    after = room - 1 - before
    return f"{set_cell_size(name, before)}…{split_text(name, width - after)[1]}"
