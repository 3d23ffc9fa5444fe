"""How rows of words stand below each other."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dbrun.ui.terminal import columns, fold, paint, width

GAP = "  "


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
        last = fold(row[-1], room, room)
        how = ["dim"] * len(cells) if is_head else [*styles, *[None] * len(cells)]
        painted = [paint(cell, style, sys.stdout) if style else cell for cell, style in zip(cells, how, strict=False)]
        first = paint(last[0], "dim", sys.stdout) if is_head and last[0] else last[0]
        lines.append(GAP.join([*painted, first]).rstrip())
        lines += [" " * indent + line for line in last[1:]]
    return "\n".join(lines)
