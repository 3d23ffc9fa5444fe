"""Texts about the store: disk usage, the report of `verify` and the report of `gc`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from dbrun.disk_space import format_bytes
from dbrun.store.gc import GcReport
from dbrun.store.usage import DiskUsage
from dbrun.store.verify import QUARANTINE, VerifyReport
from dbrun.ui.provenance import DIGEST
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import paint, pluralize

if TYPE_CHECKING:
    from dbrun.store.remote_files import RemoteFile
    from dbrun.store.remote_upkeep import RemoteGcReport
    from dbrun.store.traces import Trace

SHORT_DIGEST = r"\1…"
"""Replacement for a match of DIGEST: its first digits and an ellipsis."""


def usage_table(usages: Mapping[str, DiskUsage]) -> str:
    """A row for each part of the store, the largest first, then the sum. usages: part → its disk usage."""
    parts = sorted(usages.items(), key=lambda entry: -entry[1].bytes)
    total = DiskUsage(sum(usage.count for usage in usages.values()), sum(usage.bytes for usage in usages.values()))
    *lines, last = _usage_lines([*parts, ("all", total)])
    return "\n".join([*lines, paint(last, "bold", sys.stdout)])


def gc_lines(sweep: GcReport, dry_run: bool) -> str:
    """A table of what a gc removed, or would remove, then a line with the sum and the runs that it keeps."""
    stays = ""
    if sweep.remaining_runs:
        needs = "needs" if len(sweep.remaining_runs) == 1 else "need"
        stays = f"; what {pluralize(len(sweep.remaining_runs), 'run')} {needs} stays"
    return _freed_text(sweep, stays, dry_run)


def remote_results_table(results: Sequence[tuple[RemoteFile, Trace]]) -> str:
    """A row for each result in the remote store: when it was made, its stage, its key and its size."""
    rows: list[list[str]] = []
    for _, trace in results:
        created = trace.created.replace("T", " ").removesuffix("Z")
        rows.append([created, trace.stage, trace.key[:12], format_bytes(trace.total_bytes)])
    return align_rows(rows)


def remote_gc_lines(report: RemoteGcReport, dry_run: bool) -> str:
    """A table of what a gc of the remote store removed, or would remove, then a line with the sum and what stays."""
    return _freed_text(report, f"; {pluralize(report.kept, 'result')} and items stay", dry_run)


def _freed_text(report: GcReport | RemoteGcReport, stays: str, dry_run: bool) -> str:
    """The table of a gc and its sum. stays: a clause on what is kept, with the mark before it, or empty."""
    verb = "would free" if dry_run else "freed"
    size = format_bytes(report.freed_bytes) if report.freed_bytes else "nothing"
    last = f"{verb} {size}{stays}"
    if not report.freed:
        return last
    return "\n".join([*_usage_lines(list(report.freed.items())), last])


def verify_lines(report: VerifyReport, remote: Literal["removed", "kept"] | None = None) -> str:
    """A row for each damaged thing, then a line with how much was read and where the damaged things are now.

    remote: what happened to them in the remote store, None for the store of this machine.
    """
    rows = [[paint("damaged", "red", sys.stdout), f"{DIGEST.sub(SHORT_DIGEST, f.place)}: {f.what}"]
            for f in report.findings]
    read = ", ".join(pluralize(count, kind) for kind, count in report.counts.items()) or "nothing"
    if not rows:
        end = "all as written"
    elif remote == "removed":
        end = "what is damaged is removed; the next run that has or computes it uploads it again"
    elif remote == "kept":
        end = "it stays, since DBRUN_REMOTE_MODE=ro"
    elif any(f.aside for f in report.findings):
        end = f"what is damaged is now in {QUARANTINE}/; the next run that needs it computes it again"
    else:
        end = "the store is read-only, so it stays"
    blocks = [align_rows(rows)] if rows else []
    return "\n".join([*blocks, align_rows([[f"{read}: {end}"]])])


def _usage_lines(parts: Sequence[tuple[str, DiskUsage]]) -> list[str]:
    """A head, then a line for each part."""
    # Not `align_rows`: numbers are aligned on the right.
    width = max(len(part) for part, _ in parts)
    head = f"{'part':<{width}}  {'count':>7}  {'size':>9}"
    lines = [f"{part:<{width}}  {usage.count:>7}  {format_bytes(usage.bytes):>9}" for part, usage in parts]
    return [paint(head, "dim", sys.stdout), *lines]
