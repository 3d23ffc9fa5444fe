"""How the store looks: its room, what a check found and what a gc took."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from dbrun.disk_space import words
from dbrun.store.gc import Sweep
from dbrun.store.usage import Room
from dbrun.store.verify import QUARANTINE, Report
from dbrun.ui.provenance import DIGEST
from dbrun.ui.table import aligned
from dbrun.ui.terminal import counted, paint

SHORT = r"\1…"
"""What of a long digest is shown."""


def room_table(rooms: Mapping[str, Room]) -> str:
    """A line a part, the largest first, and the sum."""
    parts = sorted(rooms.items(), key=lambda entry: -entry[1].bytes)
    parts.append(("all", Room(sum(r.count for r in rooms.values()), sum(r.bytes for r in rooms.values()))))
    *lines, whole = _counted(parts)
    return "\n".join([*lines, paint(whole, "bold", sys.stdout)])


def sweep_lines(sweep: Sweep, dry_run: bool) -> str:
    """What went, or would go."""
    said = "would free" if dry_run else "freed"
    last = f"{said} {words(sweep.bytes) if sweep.bytes else 'nothing'}"
    if sweep.kept:
        last += f"; what {counted(len(sweep.kept), 'run')} {'needs' if len(sweep.kept) == 1 else 'need'} stays"
    return "\n".join([*_counted(list(sweep.gone.items())), last] if sweep.gone else [last])


def report_lines(report: Report) -> str:
    """What was found, a line each, then how much was read and what became of it."""
    rows = [[paint("damaged", "red", sys.stdout), f"{DIGEST.sub(SHORT, f.place)}: {f.what}"] for f in report.findings]
    read = ", ".join(counted(count, kind) for kind, count in report.checked.items()) or "nothing"
    end = "all as written" if not rows else "the store can only be read, so it stays"
    if any(f.aside for f in report.findings):
        end = f"what is damaged is in {QUARANTINE}/ now, and made again by the next run that needs it"
    return "\n".join([*([aligned(rows)] if rows else []), aligned([[f"{read}: {end}"]])])


def _counted(parts: Sequence[tuple[str, Room]]) -> list[str]:
    """A head, then a line for each part."""
    column = max(len(part) for part, _ in parts)
    head = f"{'part':<{column}}  {'things':>7}  {'size':>9}"
    return [paint(head, "dim", sys.stdout),
            *(f"{part:<{column}}  {room.count:>7}  {words(room.bytes):>9}" for part, room in parts)]
