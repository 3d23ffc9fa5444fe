"""How rows of words stand below each other."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Sequence

from dbrun.columns import columns as plain_columns
from dbrun.ui.terminal import paint, width

GAP = "  "
COLOUR = re.compile(r"\x1b\[\d*m")


def aligned(rows: Sequence[Sequence[str]], *, head: Sequence[str] = (), styles: Sequence[str | None] = ()) -> str:
    """Rows as columns, under a head if there is one; what does not fit into the last column is wrapped there.

    styles: of each column, where it has one.
    """
    every = [list(head), *rows] if head else list(rows)
    wide = [max(map(columns, column)) for column in zip(*(row[:-1] for row in every), strict=True)]
    indent = sum(wide) + len(GAP) * len(wide)
    room = max(24, width(sys.stdout) - indent)
    lines = []
    for number, row in enumerate(every):
        is_head = bool(head) and number == 0
        cells = [cell + " " * (size - columns(cell)) for cell, size in zip(row, wide, strict=False)]
        last = textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""]
        how = ["dim"] * len(cells) if is_head else [*styles, *[None] * len(cells)]
        painted = [paint(cell, style, sys.stdout) if style else cell for cell, style in zip(cells, how, strict=False)]
        first = paint(last[0], "dim", sys.stdout) if is_head and last[0] else last[0]
        lines.append(GAP.join([*painted, first]).rstrip())
        lines += [" " * indent + line for line in last[1:]]
    return "\n".join(lines)


def columns(text: str) -> int:
    """Terminal columns of a text; East Asian characters take two, colours none."""
    return plain_columns(COLOUR.sub("", text))
