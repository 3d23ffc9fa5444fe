"""How a plan looks: a row per stage, what will happen to it, and why."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from dbrun.disk_space import words as size_words
from dbrun.errors import DbrunError
from dbrun.events import Note
from dbrun.plan.estimate import Estimate, total
from dbrun.plan.planner import Plan, Status
from dbrun.recipe.checks.exports import Outlook
from dbrun.ui.table import aligned
from dbrun.ui.terminal import clock, paint, warning

STYLES = {Status.HIT: "green", Status.RUN: "cyan", Status.RESUME: "yellow", Status.BLOCKED: "red"}


def status_word(status: Status) -> str:
    """HIT, RUN, RESUME or BLOCKED, in its colour."""
    return paint(f"{status.upper():<7}", STYLES[status], sys.stdout)


def table(plan: Plan, known: Mapping[str, Estimate] = MappingProxyType({})) -> str:
    """The plan as aligned text, with what is known of the time, memory and disk that it will take."""
    rows = [[stage.name, status_word(stage.status), about(known.get(stage.name)), str(stage.reason)]
            for stage in plan.stages]
    if not known:
        return aligned([[row[0], row[1], row[3]] for row in rows])
    return f"{aligned(rows)}\n{_total(plan, known)}"


def exports(forms: Outlook) -> str:
    """The formats that are written, and which could be asked for besides; one that could not says why if it is."""
    parts = [f"`export` may also name {', '.join(forms.possible)}" if forms.possible else "",
             f"not {', '.join(forms.refused)}" if forms.refused else ""]
    beside = "; ".join(part for part in parts if part)
    lines = aligned([[f"  {beside}"]]).split("\n") if beside else []
    return "\n".join([f"exports {', '.join(forms.written)}", *(paint(line, "dim", sys.stdout) for line in lines)])


def stopped(error: DbrunError) -> str:
    """That a run would stop, why, and what to do."""
    fix = f"\n  {paint('→', 'cyan', sys.stderr)} {error.fix}" if error.fix else ""
    return f"{paint('a run would stop:', 'red', sys.stderr)} {error.message}{fix}"


def remark(note: Note) -> str:
    """What is to be known before a run, a warning in its colour."""
    text = f"{note.stage}: {note.text}"
    return warning(text) if note.level == "warning" else text


def about(estimate: Estimate | None) -> str:
    """The time that a stage takes, as far as it is known."""
    return f"~{clock(estimate.seconds)}" if estimate else ""


def _total(plan: Plan, known: Mapping[str, Estimate]) -> str:
    """What the stages take together, as far as it is known."""
    pending = [stage.name for stage in plan.stages if stage.status is not Status.HIT]
    return going_by(list(known.items()), [name for name in pending if name not in known])


def going_by(known: Sequence[tuple[str, Estimate]], unknown: Sequence[str]) -> str:
    """What stages with these estimates take together. unknown: those of which nothing is known."""
    whole = total(one for _, one in known)
    least = "at least " if unknown else ""
    memory = "" if whole.memory is None else f", up to about {size_words(whole.memory)} of memory"
    more = "at least " if any(one.disk is None for _, one in known) else least
    disk = "" if whole.disk is None else f", {more}{size_words(whole.disk)} of disk for results"
    lacking = [*unknown, *(f"the memory of {name}" for name, one in known if one.memory is None),
               *(f"the disk of {name}" for name, one in known if one.disk is None)]
    without = f"; nothing is known of {', '.join(dict.fromkeys(lacking))}" if lacking else ""
    return aligned([[f"{least}about {clock(whole.seconds)}{memory}{disk}, going by earlier runs{without}"]])
