"""How the pictures of a recipe look as a table: a row each, and what is odd about it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from dbrun.resolve.picture_report import PictureRow
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import display_width, paint, pluralize, terminal_width, truncate

MAX_TEXT_COLUMNS = 40
"""Columns of a name or prompt that are shown at most; on a narrow screen both give way to what is beside them."""
HEAD = ("picture", "pixels", "shape", "cut off", "ways", "mask", "prompt")


def picture_table(rows: Sequence[PictureRow]) -> str:
    """Aligned columns; then how many pictures there are of each shape, and how many are odd."""
    every = [_row_cells(row) for row in rows]
    used = [column for column in range(7) if column < 4 or len({line[column] for line in every}) > 1 or column == 6]
    beside = [max(display_width(line[column]) for line in (HEAD, *every)) for column in used[1:-1]]
    room = max(30, terminal_width(sys.stdout) - sum(beside) - 2 * (len(used) - 1))
    longest = max(display_width(line[0]) for line in (HEAD, *every))
    name = min(longest, MAX_TEXT_COLUMNS, max(room // 2, room - max(display_width(line[6]) for line in every)))
    shown = [[_elide_middle(line[0], name), *(line[column] for column in used[1:-1]),
              truncate(line[6], min(MAX_TEXT_COLUMNS, room - name))] for line in every]
    lines = align_rows(shown, head=[HEAD[column] for column in used]).splitlines()
    for number in reversed(range(len(rows))):
        if odd := "; ".join(rows[number].odd):
            beside_it = display_width(lines[number + 1]) + 2 + display_width(odd) <= terminal_width(sys.stdout)
            told = paint(odd, "yellow", sys.stdout)
            lines[number + 1] += f"  {told}" if beside_it else f"\n    {told}"
    return "\n".join([*lines, "", _summary(rows)])


def _row_cells(row: PictureRow) -> tuple[str, ...]:
    name = f"{row.name} (class)" if row.half == "class" else row.name
    shape = f"{row.shape[0]}×{row.shape[1]}" if row.shape else "?"
    return (name, f"{row.width}×{row.height}", shape, f"{row.lost:.0%}" if row.lost >= 0.005 else "",
            str(row.ways), "yes" if row.mask else "", row.prompt)


def _summary(rows: Sequence[PictureRow]) -> str:
    shapes = Counter(row.shape for row in rows if row.shape)
    listed = ", ".join(f"{count} of {shape[0]}×{shape[1]}" for shape, count in sorted(shapes.items()))
    odd = sum(bool(row.odd) for row in rows)
    return f"{pluralize(len(rows), 'picture')}{f': {listed}' if listed else ''}; {odd or 'none'} odd"


def _elide_middle(name: str, room: int) -> str:
    """A name without its middle, if it does not fit: names of pictures differ at their ends."""
    from rich.cells import cell_len, set_cell_size, split_text

    width = cell_len(name)
    if width <= room:
        return name
    before = (room - 1) // 2
    after = room - 1 - before
    return f"{set_cell_size(name, before)}…{split_text(name, width - after)[1]}"
