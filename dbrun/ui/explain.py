"""How a stage's key looks when it is taken apart."""

from __future__ import annotations

import sys

from dbrun.plan.explain import Explanation
from dbrun.ui.plan import status_word
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import paint


def explanation(found: Explanation) -> str:
    """The verdict, what it is compared with, then what differs, and what the key is made of besides."""
    plan = found.plan
    reason = str(plan.reason)
    if found.earlier_document is not None and found.unchanged_inputs and found.trace is None:
        reason += f"; {', '.join(found.unchanged_inputs)} unchanged"
    lines = [align_rows([[paint(plan.name, "bold", sys.stdout), status_word(plan.status).rstrip(), reason]]),
             f"key     {found.key or 'not known before what stands above has run'}"]
    if found.trace is not None:
        lines += [f"digest  {found.trace.digest}", f"made    {found.trace.created}"]
    compared = found.earlier_document is not None and found.trace is None
    rows = []
    for part in dict.fromkeys(line.part for line in found.lines):
        title = part
        for line in found.lines:
            if line.part == part:
                changed = compared and line.is_changed
                before = f"  (before: {line.before or 'left out'})" if changed else ""
                rows.append(["~" if changed else " ", title, line.name, f"{line.now or 'left out'}{before}"])
                title = ""
    return "\n".join([*lines, align_rows(rows, styles=["yellow", "dim"])])
