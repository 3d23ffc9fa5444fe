"""How the state of a machine looks."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dbrun.plan.doctor import Check
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import paint

STYLES = {"ok": "green", "note": "yellow", "bad": "red"}


def checks_table(checks: Sequence[Check]) -> str:
    """A line for each thing looked at, with the way out where it is not well."""
    return align_rows([[check.name, paint(check.state, STYLES[check.state], sys.stdout),
                        f"{check.found} → {check.fix}" if check.fix else check.found] for check in checks])
