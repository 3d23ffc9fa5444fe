"""The graph of a recipe's stages: text for terminals, Mermaid for web pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dbrun.plan.planner import Plan
from dbrun.ui.plan import STYLES, status_word
from dbrun.ui.terminal import display_width

COLOURS = {"hit": "#d3f2d3", "run": "#d3eaf7", "resume": "#fdf3c8", "blocked": "#f9d5d5"}
"""Status of a stage → fill colour of its Mermaid node."""


def graph_text(plan: Plan, needs: Mapping[str, Sequence[str]]) -> str:
    """A row for each stage in the order of running. In a row ○ is the stage itself, ● each stage that it needs.

    needs: stage → the stages that it needs.
    """
    # Each stage owns a column, which runs down from its ○ to the last stage that needs it.
    names = [stage.name for stage in plan.stages]
    last_user = [_last_user_row(name, names, needs) for name in names]
    width = max(map(display_width, names))
    lines = []
    for row, stage in enumerate(plan.stages):
        needed = [names.index(name) for name in needs[stage.name]]
        lines.append(f"{stage.name:<{width}}  {status_word(stage.status)}  {_line(row, needed, last_user)}")
    return "\n".join(lines)


def _last_user_row(name: str, names: Sequence[str], needs: Mapping[str, Sequence[str]]) -> int:
    """The row of the last stage that needs this one, -1 if none does."""
    rows = [row for row, other in enumerate(names) if name in needs[other]]
    return max(rows, default=-1)


def _line(row: int, needed: Sequence[int], last_user: Sequence[int]) -> str:
    """A stage's row of the drawing: the columns of the stages above it, then its own ○.

    needed: the columns of the stages that it needs; last_user: for each column the row where it ends.
    """
    first = min(needed, default=row)
    line = ""
    for column in range(row):
        # Right of the first needed stage a horizontal line leads to the ○.
        crossed, goes_on = column >= first, last_user[column] > row
        if column in needed:
            line += "●"
        elif crossed:
            line += "┼" if goes_on else "─"
        else:
            line += "│" if goes_on else " "
        line += "──" if crossed else "  "
    return line + "○"


def mermaid(plan: Plan, needs: Mapping[str, Sequence[str]]) -> str:
    """A Mermaid flowchart, each stage in the colour of its status. needs: stage → the stages that it needs."""
    lines = ["flowchart TD"]
    for stage in plan.stages:
        lines.append(f'  {_node_id(stage.name)}["{stage.name}<br/>{stage.status.value}"]:::{stage.status.value}')
    for stage in plan.stages:
        lines += [f"  {_node_id(above)} --> {_node_id(stage.name)}" for above in needs[stage.name]]
    lines += [f"  classDef {status.value} fill:{COLOURS[status.value]},stroke:#555,color:#111" for status in STYLES]
    return "\n".join(lines)


def _node_id(name: str) -> str:
    # Mermaid can take hyphens in an id for the beginning of an arrow.
    return name.replace("-", "_")
