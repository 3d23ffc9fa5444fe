"""How a recipe's stages look as a graph: text for terminals, Mermaid for pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dbrun.plan.planner import Plan
from dbrun.ui.plan import STYLES, status_word
from dbrun.ui.terminal import display_width

COLOURS = {"hit": "#d3f2d3", "run": "#d3eaf7", "resume": "#fdf3c8", "blocked": "#f9d5d5"}


def graph_text(plan: Plan, needs: Mapping[str, Sequence[str]]) -> str:
    """A line a stage, in the order of running: ○ is the stage itself, ● stands below each that it needs."""
    names = [stage.name for stage in plan.stages]
    last = [max((row for row, other in enumerate(names) if name in needs[other]), default=-1) for name in names]
    rows = [[stage.name, status_word(stage.status), _line(row, [names.index(n) for n in needs[stage.name]], last)]
            for row, stage in enumerate(plan.stages)]
    wide = max(display_width(row[0]) for row in rows)
    return "\n".join(f"{name:<{wide}}  {status}  {line}" for name, status, line in rows)


def _line(row: int, needed: Sequence[int], last: Sequence[int]) -> str:
    """The columns of the stages above, then the stage's own. last: the row of the last stage that needs each."""
    line = ""
    first = min(needed, default=row)
    for column in range(row):
        through, goes_on = column >= first, last[column] > row
        line += "●" if column in needed else ("┼" if goes_on else "─") if through else "│" if goes_on else " "
        line += "──" if through else "  "
    return line + "○"


def mermaid(plan: Plan, needs: Mapping[str, Sequence[str]]) -> str:
    """A Mermaid flowchart, each stage in the colour of its status."""
    lines = ["flowchart TD"]
    for stage in plan.stages:
        lines.append(f'  {_node_id(stage.name)}["{stage.name}<br/>{stage.status.value}"]:::{stage.status.value}')
    lines += [f"  {_node_id(above)} --> {_node_id(stage.name)}" for stage in plan.stages for above in needs[stage.name]]
    lines += [f"  classDef {status.value} fill:{COLOURS[status.value]},stroke:#555,color:#111" for status in STYLES]
    return "\n".join(lines)


def _node_id(name: str) -> str:
    return name.replace("-", "_")
