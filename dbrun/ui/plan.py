"""How a plan looks: a row per stage, what will happen to it, and why."""

from __future__ import annotations

import sys
import textwrap

from dbrun.plan.planner import Plan, Status
from dbrun.ui.terminal import paint, width

STYLES = {Status.HIT: "green", Status.RUN: "cyan", Status.RESUME: "yellow", Status.BLOCKED: "red"}


def status_word(status: Status) -> str:
    """HIT, RUN, RESUME or BLOCKED, in its colour."""
    return paint(f"{status.upper():<7}", STYLES[status], sys.stdout)


def table(plan: Plan) -> str:
    """The plan as aligned text; long reasons are wrapped under their column."""
    column = max((len(s.name) for s in plan.stages), default=0)
    indent = column + 2 + len("BLOCKED") + 2
    room = max(20, width(sys.stdout) - indent)
    rows = []
    for stage in plan.stages:
        reason = textwrap.wrap(str(stage.reason), room) or [""]
        rows.append(f"{stage.name:<{column}}  {status_word(stage.status)}  {reason[0]}".rstrip())
        rows += [" " * indent + line for line in reason[1:]]
    return "\n".join(rows)
