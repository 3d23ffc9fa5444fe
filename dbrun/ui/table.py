"""Rows of text aligned as columns, wrapped to the width of the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import zip_longest

from dbrun.ui.terminal import display_width, escape_controls, paint, terminal_width, wrap_text

# Not rich's Table: it costs every command 38 ms, a tenth of a plan, and cuts or breaks what is longer than its column,
# paths too, which are there to be copied.
GAP = "  "
MIN_LAST_COLUMN = 24
"""Columns that the last cell needs on a terminal; a longer text that has fewer is written below its row."""
BELOW_INDENT = "    "


def align_rows(rows: Sequence[Sequence[str]], *, head: Sequence[str] = (), styles: Sequence[str | None] = (),
               short: bool = False) -> str:
    """Rows as aligned columns under an optional head. On a terminal the last column is wrapped, elsewhere never.

    styles: the style of each column, None for plain; short: cut the last column after its first line.
    """
    # Escape before measuring: a raw control character has width 0, its escape `\u001b` has width 6.
    every = [list(head)] if head else []
    for row in rows:
        every.append([escape_controls(cell, sys.stdout) for cell in row])
    widths = _column_widths(every)
    indent = _indent(widths)
    screen = terminal_width(sys.stdout) if sys.stdout.isatty() else None
    lines = []
    for number, row in enumerate(every):
        is_head = bool(head) and number == 0
        last, below = _last_cell_lines(row[-1], indent, screen, short)
        row_styles = ["dim"] * len(row) if is_head else styles
        cells = _padded_cells(row[:-1], widths, row_styles)
        first = paint(last[0], "dim", sys.stdout) if is_head and last[0] else last[0]
        lines.append(GAP.join([*cells, first]).rstrip())
        lines += [below + line for line in last[1:]]
    return "\n".join(lines)


def _column_widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column but the last, which needs no padding."""
    all_but_last = [row[:-1] for row in rows]
    return [max(map(display_width, column)) for column in zip(*all_but_last, strict=True)]


def _indent(widths: Sequence[int]) -> int:
    """The terminal column in which the last column begins."""
    return sum(widths) + len(GAP) * len(widths)


def _padded_cells(cells: Sequence[str], widths: Sequence[int], styles: Sequence[str | None]) -> list[str]:
    """Cells padded to the widths of their columns and painted; styles may be shorter than cells."""
    padded = []
    for cell, width, style in zip_longest(cells, widths, styles[:len(cells)]):
        # By hand: `ljust` counts colour codes, and an East Asian letter as one column.
        text = cell + " " * (width - display_width(cell))
        if style:
            text = paint(text, style, sys.stdout)
        padded.append(text)
    return padded


def align_or_stack(rows: Sequence[Sequence[str]], *, head: Sequence[str]) -> str:
    """A line for each row; on a narrow terminal two, with the first cell alone on a line, where it can be copied."""
    indent = _indent(_column_widths([head, *rows]))
    if not sys.stdout.isatty() or indent + MIN_LAST_COLUMN <= terminal_width(sys.stdout):
        return align_rows(rows, head=head, short=True)
    without_first = [["", *row[1:]] for row in rows]
    rest = align_rows(without_first, head=["", *head[1:]], short=True).split("\n")
    # Still too narrow, so that last cells went below their rows: stacking gains nothing.
    if len(rest) > len(rows) + 1:
        return align_rows(rows, head=head, short=True)
    first = [paint(head[0], "dim", sys.stdout), *(row[0] for row in rows)]
    return "\n".join(f"{name}\n{line}" for name, line in zip(first, rest, strict=True))


def _last_cell_lines(text: str, indent: int, screen: int | None, short: bool) -> tuple[list[str], str]:
    """The lines of a row's last cell, and the indent of all but the first. screen: its columns, None without one."""
    text = text.partition("\n")[0] if short else text
    if screen is None:
        return [text], ""
    fold = _first_line if short else wrap_text
    room = screen - indent
    if room < MIN_LAST_COLUMN and display_width(text) > room:
        room_below = screen - len(BELOW_INDENT)
        return ["", *fold(text, room_below, room_below)], BELOW_INDENT
    return fold(text, room, room), " " * indent


def _first_line(text: str, room: int, more: int) -> list[str]:
    """The words of a text that fit on its first line, with `…` if some do not; a longer word stays whole."""
    if display_width(text) <= room:
        return [text]
    first, *rest = wrap_text(text, room - 1, more)
    if rest:
        first += "…"
    return [first]
