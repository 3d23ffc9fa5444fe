"""How the store looks: its room, what a check found and what a gc took."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from dbrun.disk_space import format_bytes
from dbrun.store.gc import GcReport
from dbrun.store.usage import DiskUsage
from dbrun.store.verify import QUARANTINE, VerifyReport
from dbrun.ui.provenance import DIGEST
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import paint, pluralize

SHORT_DIGEST = r"\1…"
"""What of a long digest is shown."""


def usage_table(rooms: Mapping[str, DiskUsage]) -> str:
    """A line a part, the largest first, and the sum."""
    parts = sorted(rooms.items(), key=lambda entry: -entry[1].bytes)
    parts.append(("all", DiskUsage(sum(r.count for r in rooms.values()), sum(r.bytes for r in rooms.values()))))
    *lines, whole = _usage_lines(parts)
    return "\n".join([*lines, paint(whole, "bold", sys.stdout)])


def gc_lines(sweep: GcReport, dry_run: bool) -> str:
    """What went, or would go."""
    said = "would free" if dry_run else "freed"
    last = f"{said} {format_bytes(sweep.freed_bytes) if sweep.freed_bytes else 'nothing'}"
    if sweep.remaining_runs:
        needs = "needs" if len(sweep.remaining_runs) == 1 else "need"
        last += f"; what {pluralize(len(sweep.remaining_runs), 'run')} {needs} stays"
    return "\n".join([*_usage_lines(list(sweep.freed.items())), last] if sweep.freed else [last])


def verify_lines(report: VerifyReport) -> str:
    """What was found, a line each, then how much was read and what became of it."""
    rows = [[paint("damaged", "red", sys.stdout), f"{DIGEST.sub(SHORT_DIGEST, f.place)}: {f.what}"]
            for f in report.findings]
    read = ", ".join(pluralize(count, kind) for kind, count in report.counts.items()) or "nothing"
    end = "all as written" if not rows else "the store can only be read, so it stays"
    if any(f.aside for f in report.findings):
        end = f"what is damaged is in {QUARANTINE}/ now, and made again by the next run that needs it"
    return "\n".join([*([align_rows(rows)] if rows else []), align_rows([[f"{read}: {end}"]])])


def _usage_lines(parts: Sequence[tuple[str, DiskUsage]]) -> list[str]:
    """A head, then a line for each part."""
    column = max(len(part) for part, _ in parts)
    head = f"{'part':<{column}}  {'things':>7}  {'size':>9}"
    return [paint(head, "dim", sys.stdout),
            *(f"{part:<{column}}  {room.count:>7}  {format_bytes(room.bytes):>9}" for part, room in parts)]
