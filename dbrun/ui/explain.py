"""The text that `dbrun explain` prints: a stage's key, taken apart."""

from __future__ import annotations

import sys

from dbrun.plan.explain import Explanation
from dbrun.ui.plan import status_word
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import paint


def explanation(found: Explanation) -> str:
    """The stage's status and reason, its key, then all that the key is made of; changed lines are marked with `~`."""
    plan = found.plan
    # With a result in the store there is nothing to explain by a comparison.
    compared = found.earlier_document is not None and found.trace is None
    reason = str(plan.reason)
    if compared and found.unchanged_inputs:
        reason += f"; {', '.join(found.unchanged_inputs)} unchanged"
    head = [paint(plan.name, "bold", sys.stdout), status_word(plan.status).rstrip(), reason]
    lines = [align_rows([head]), f"key     {found.key or 'not known until the stages before it have run'}"]
    if found.trace is not None:
        lines += [f"digest  {found.trace.digest}", f"made    {found.trace.created}"]
    rows = []
    for part in dict.fromkeys(line.part for line in found.lines):
        # Only the first row of a part shows its title.
        title = part
        for line in found.lines:
            if line.part != part:
                continue
            mark, value = " ", line.now or "left out"
            if compared and line.is_changed:
                mark = "~"
                value += f"  (before: {line.before or 'left out'})"
            rows.append([mark, title, line.name, value])
            title = ""
    return "\n".join([*lines, align_rows(rows, styles=["yellow", "dim"])])
