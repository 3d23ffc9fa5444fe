"""How rows of words stand below each other."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dbrun.ui.terminal import display_width, escape_controls, paint, terminal_width, wrap_text

# Not rich's Table: it costs every command 38 ms, a tenth of a plan, and cuts or breaks what is longer than its column,
# paths too, which are there to be copied.
GAP = "  "
MIN_LAST_COLUMN = 24
"""Columns that the last column of a table has on a screen; what wants more than there are goes below its row."""
BELOW_INDENT = "    "


def align_rows(rows: Sequence[Sequence[str]], *, head: Sequence[str] = (), styles: Sequence[str | None] = (),
               short: bool = False) -> str:
    """Rows as columns, under a head if there is one; on a screen, what does not fit into the last is wrapped there.

    styles: of each column, where it has one; short: of what would be wrapped, only the first line.
    """
    # before anything is measured: a control character takes no column, written out it takes six
    cells_as_shown = [[escape_controls(cell, sys.stdout) for cell in row] for row in rows]
    every = [list(head), *cells_as_shown] if head else cells_as_shown
    wide = [max(map(display_width, column)) for column in zip(*(row[:-1] for row in every), strict=True)]
    indent = sum(wide) + len(GAP) * len(wide)
    screen = terminal_width(sys.stdout) if sys.stdout.isatty() else None
    lines = []
    for number, row in enumerate(every):
        is_head = bool(head) and number == 0
        cells = [cell + " " * (size - display_width(cell)) for cell, size in zip(row, wide, strict=False)]
        last, below = _last_cell_lines(row[-1], indent, screen, short)
        how = ["dim"] * len(cells) if is_head else [*styles, *[None] * len(cells)]
        painted = [paint(cell, style, sys.stdout) if style else cell for cell, style in zip(cells, how, strict=False)]
        first = paint(last[0], "dim", sys.stdout) if is_head and last[0] else last[0]
        lines.append(GAP.join([*painted, first]).rstrip())
        lines += [below + line for line in last[1:]]
    return "\n".join(lines)


def align_or_stack(rows: Sequence[Sequence[str]], *, head: Sequence[str]) -> str:
    """A line a row; on a screen too narrow for the columns, the first of each row on a line of its own, to be copied.
    """
    wide = [max(map(display_width, column)) for column in zip(*(row[:-1] for row in [head, *rows]), strict=True)]
    if not sys.stdout.isatty() or sum(wide) + len(GAP) * len(wide) + MIN_LAST_COLUMN <= terminal_width(sys.stdout):
        return align_rows(rows, head=head, short=True)
    rest = align_rows([["", *row[1:]] for row in rows], head=["", *head[1:]], short=True).split("\n")
    if len(rest) > len(rows) + 1:
        return align_rows(rows, head=head, short=True)
    first = [paint(head[0], "dim", sys.stdout), *(row[0] for row in rows)]
    return "\n".join(f"{name}\n{line}" for name, line in zip(first, rest, strict=True))


def _last_cell_lines(text: str, indent: int, screen: int | None, short: bool) -> tuple[list[str], str]:
    """The lines of a row's last cell, and what stands before the second. screen: its columns, where there is one."""
    text = text.partition("\n")[0] if short else text
    if screen is None:
        return [text], ""
    room, lines = screen - indent, _first_line if short else wrap_text
    if room < MIN_LAST_COLUMN and display_width(text) > room:
        return ["", *lines(text, screen - len(BELOW_INDENT), screen - len(BELOW_INDENT))], BELOW_INDENT
    return lines(text, room, room), " " * indent


def _first_line(text: str, room: int, more: int) -> list[str]:
    """The words of a text that fit on its first line; one that is longer than that stays whole, as in `wrap_text`."""
    if display_width(text) <= room:
        return [text]
    first, *rest = wrap_text(text, room - 1, more)
    return [f"{first}…" if rest else first]
