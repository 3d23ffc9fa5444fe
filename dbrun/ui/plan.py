"""How a plan looks: a row per stage, what will happen to it, and why."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from dbrun.disk_space import format_bytes
from dbrun.errors import DbrunError
from dbrun.events import Note
from dbrun.plan.planner import Plan, Status
from dbrun.recipe.checks.exports import ExportOptions
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import format_duration, paint, warning_text

if TYPE_CHECKING:
    from dbrun.plan.estimate import Estimate

STYLES = {Status.HIT: "green", Status.RUN: "cyan", Status.RESUME: "yellow", Status.BLOCKED: "red"}


def status_word(status: Status) -> str:
    """HIT, RUN, RESUME or BLOCKED, in its colour."""
    return paint(f"{status.upper():<7}", STYLES[status], sys.stdout)


def stage_table(plan: Plan, known: Mapping[str, Estimate] = MappingProxyType({})) -> str:
    """The plan as aligned text, with what is known of the time, memory and disk that it will take."""
    rows = [[stage.name, status_word(stage.status), duration_text(known.get(stage.name)), str(stage.reason)]
            for stage in plan.stages]
    if not known:
        return align_rows([[row[0], row[1], row[3]] for row in rows])
    return f"{align_rows(rows)}\n{_plan_total_text(plan, known)}"


def exports_text(forms: ExportOptions) -> str:
    """The formats that are written, and which could be asked for besides; one that could not says why if it is."""
    parts = [f"`export` may also name {', '.join(forms.possible)}" if forms.possible else "",
             f"not {', '.join(forms.refused)}" if forms.refused else ""]
    beside = "; ".join(part for part in parts if part)
    lines = align_rows([[f"  {beside}"]]).split("\n") if beside else []
    return "\n".join([f"exports {', '.join(forms.written)}", *(paint(line, "dim", sys.stdout) for line in lines)])


def stop_text(error: DbrunError) -> str:
    """That a run would stop, why, and what to do."""
    fix = f"\n  {paint('→', 'cyan', sys.stderr)} {error.fix}" if error.fix else ""
    return f"{paint('a run would stop:', 'red', sys.stderr)} {error.message}{fix}"


def note_text(note: Note) -> str:
    """What is to be known before a run, a warning in its colour."""
    text = f"{note.stage}: {note.text}"
    return warning_text(text) if note.level == "warning" else text


def duration_text(estimate: Estimate | None) -> str:
    """The time that a stage takes, as far as it is known."""
    return f"~{format_duration(estimate.seconds)}" if estimate else ""


def _plan_total_text(plan: Plan, known: Mapping[str, Estimate]) -> str:
    """What the stages take together, as far as it is known."""
    pending = [stage.name for stage in plan.stages if stage.status is not Status.HIT]
    return total_text(list(known.items()), [name for name in pending if name not in known])


def total_text(known: Sequence[tuple[str, Estimate]], unknown: Sequence[str]) -> str:
    """What stages with these estimates take together. unknown: those of which nothing is known."""
    from dbrun.plan.estimate import total_estimate

    whole = total_estimate(one for _, one in known)
    least = "at least " if unknown else ""
    memory = "" if whole.memory is None else f", up to about {format_bytes(whole.memory)} of memory"
    more = "at least " if any(one.disk is None for _, one in known) else least
    disk = "" if whole.disk is None else f", {more}{format_bytes(whole.disk)} of disk for results"
    lacking = [*unknown, *(f"the memory of {name}" for name, one in known if one.memory is None),
               *(f"the disk of {name}" for name, one in known if one.disk is None)]
    without = f"; nothing is known of {', '.join(dict.fromkeys(lacking))}" if lacking else ""
    text = f"{least}about {format_duration(whole.seconds)}{memory}{disk}, going by earlier runs{without}"
    return align_rows([[text]])
