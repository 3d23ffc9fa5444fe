"""How the store looks: its room, what a check found and what a gc took."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from dbrun.space import words
from dbrun.store.census import Room
from dbrun.store.check import Report
from dbrun.store.sweep import Sweep
from dbrun.ui.terminal import paint


def room_table(rooms: Mapping[str, Room]) -> str:
    """A line a part, the largest first, and the sum."""
    parts = sorted(rooms.items(), key=lambda entry: -entry[1].bytes)
    parts.append(("all", Room(sum(r.count for r in rooms.values()), sum(r.bytes for r in rooms.values()))))
    head, last = f"{'part':<{max(len(part) for part, _ in parts)}}  {'things':>7}  {'size':>9}", _counted(parts)
    *lines, whole = last.splitlines()
    return "\n".join([paint(head, "dim", sys.stdout), *lines, paint(whole, "bold", sys.stdout)])


def sweep_lines(sweep: Sweep, dry_run: bool) -> str:
    """What went, or would go."""
    said = "would free" if dry_run else "freed"
    last = f"{said} {words(sweep.bytes)}; runs that keep what they need: {len(sweep.kept)}"
    return "\n".join([_counted(list(sweep.gone.items())), last] if sweep.gone else [last])


def report_lines(report: Report) -> str:
    """What was found, a line each, then how much was read."""
    lines = [f"{paint('damaged', 'red', sys.stdout)}  {f.place}: {f.what}"
             + (f"; it is in {f.aside} now" if f.aside else "") for f in report.findings]
    read = ", ".join(f"{count} {kind}{'s' if count != 1 else ''}" for kind, count in report.checked.items())
    end = "all as written" if not lines else "what is put aside is made again by the next run that needs it"
    return "\n".join([*lines, f"{read or 'nothing'}: {end}"])


def _counted(parts: Sequence[tuple[str, Room]]) -> str:
    column = max(len(part) for part, _ in parts)
    return "\n".join(f"{part:<{column}}  {room.count:>7}  {words(room.bytes):>9}" for part, room in parts)
