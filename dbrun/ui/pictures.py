"""How the pictures of a recipe look as a table: a row each, and what is odd about it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from dbrun.plan.looks import Row
from dbrun.ui.terminal import paint, width

LONGEST = 40
"""Characters of a name or prompt that are shown."""


def table(rows: Sequence[Row]) -> str:
    """Aligned columns; then how many pictures there are of each shape, and how many are odd."""
    words = [("picture", "pixels", "shape", "cut off", "ways", "mask", "prompt", ""), *map(_words, rows)]
    used = [column for column in range(7) if column < 4 or len({line[column] for line in words[1:]}) > 1 or column == 6]
    widths = {column: max(len(line[column]) for line in words) for column in used}
    lines = []
    for number, line in enumerate(words):
        text = "  ".join(f"{line[column]:<{widths[column]}}" for column in used).rstrip()
        if odd := line[7]:
            gap = "\n    " if len(text) + 2 + len(odd) > width(sys.stdout) else "  "
            text = f"{text}{gap}{paint(odd, 'yellow', sys.stdout)}"
        lines.append(paint(text, "dim", sys.stdout) if number == 0 else text)
    return "\n".join([*lines, "", _sum(rows)])


def _words(row: Row) -> tuple[str, ...]:
    name = f"{row.name} (class)" if row.half == "class" else row.name
    shape = f"{row.shape[0]}×{row.shape[1]}" if row.shape else "?"
    return (_short(name), f"{row.width}×{row.height}", shape, f"{row.lost:.0%}" if row.lost >= 0.005 else "",
            str(row.ways), "yes" if row.mask else "", _short(row.prompt), "; ".join(row.odd))


def _sum(rows: Sequence[Row]) -> str:
    shapes = Counter(row.shape for row in rows if row.shape)
    listed = ", ".join(f"{count} of {shape[0]}×{shape[1]}" for shape, count in sorted(shapes.items()))
    odd = sum(bool(row.odd) for row in rows)
    return f"{len(rows)} pictures{f': {listed}' if listed else ''}; {odd or 'none'} odd"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST - 1]}…"
