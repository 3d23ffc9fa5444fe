"""The table that `dbrun doctor` prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dbrun.plan.doctor import Check
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import paint

STYLES = {"ok": "green", "note": "yellow", "bad": "red"}
"""State of a check → its colour."""


def checks_table(checks: Sequence[Check]) -> str:
    """A row for each check: its name, its state, what was found, and what to do if something is wrong."""
    rows = []
    for check in checks:
        text = f"{check.found} → {check.fix}" if check.fix else check.found
        rows.append([check.name, paint(check.state, STYLES[check.state], sys.stdout), text])
    return align_rows(rows)
