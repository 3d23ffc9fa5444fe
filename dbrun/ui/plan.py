"""The plan as text: a row for each stage, what will happen to it, and why."""

from __future__ import annotations

import shlex
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
    from dbrun.plan.forecast import Forecast

STYLES = {Status.HIT: "green", Status.RUN: "cyan", Status.RESUME: "yellow", Status.BLOCKED: "red"}
"""Status of a stage → its colour."""


def status_word(status: Status) -> str:
    """HIT, RUN, RESUME or BLOCKED in its colour, padded to 7 columns."""
    return paint(f"{status.upper():<7}", STYLES[status], sys.stdout)


def stage_table(plan: Plan, known: Mapping[str, Estimate] = MappingProxyType({})) -> str:
    """The plan as aligned rows. known: stage → its estimate; with any, there is a column of durations."""
    rows = []
    for stage in plan.stages:
        duration = [duration_text(known.get(stage.name))] if known else []
        rows.append([stage.name, status_word(stage.status), *duration, str(stage.reason)])
    # A line for each stage: on a narrow terminal a long reason is cut.
    table = align_rows(rows, short=True)
    parts = [table]
    if any(line.endswith("…") for line in table.split("\n")):
        parts.append(paint("  `dbrun explain STAGE` has the whole reason", "dim", sys.stdout))
    return "\n".join(parts)


def exports_text(forms: ExportOptions) -> str:
    """The export formats of the recipe, then those that it could name as well, and those that do not fit it."""
    parts = []
    if forms.possible:
        parts.append(f"`export` may also name {', '.join(forms.possible)}")
    if forms.refused:
        # Without the reasons, which `validate` gives if the recipe names such a format.
        parts.append(f"not {', '.join(forms.refused)}")
    lines = [f"exports {', '.join(forms.written)}"]
    if parts:
        # Wrapped before it is painted: a colour that spans lines would colour the indent, too.
        hint = align_rows([["", "; ".join(parts)]])
        lines += [paint(line, "dim", sys.stdout) for line in hint.split("\n")]
    return "\n".join(lines)


def stop_text(error: DbrunError) -> str:
    """A message that a run would stop, with the reason and what to do."""
    fix = f"\n  {paint('→', 'cyan', sys.stderr)} {error.fix}" if error.fix else ""
    return f"{paint('a run would stop:', 'red', sys.stderr)} {error.message}{fix}"


def note_text(note: Note) -> str:
    """A note with the name of its stage, as a warning if it is one."""
    text = f"{note.stage}: {note.text}"
    return warning_text(text) if note.level == "warning" else text


def duration_text(estimate: Estimate | None) -> str:
    """The estimated time of a stage, such as "~3 min 05 s"; empty without an estimate."""
    return f"~{format_duration(estimate.seconds)}" if estimate else ""


def forecast_lines(plan: Plan, known: Mapping[str, Estimate], forecast: Forecast, words: Sequence[str]) -> list[str]:
    """What a run needs and what it takes, a line each; none where nothing is to be done.

    known: stage → its estimate; words: of the command line that name the recipe.
    """
    if not plan.has_pending:
        return []
    needs = []
    if forecast.download is not None:
        needs.append(forecast.download)
    if forecast.counted_memory is not None:
        memory = f"{format_bytes(forecast.counted_memory)} of memory in {forecast.largest_stage}, counted"
        if forecast.device_memory is not None:
            memory += f"; this {forecast.device} has {format_bytes(forecast.device_memory)}"
        needs.append(memory)
    else:
        later = "" if forecast.can_count else " once the base is here"
        command = shlex.join(["dbrun", "plan", *words, "--memory"])
        needs.append(f"memory: `{command}` counts it{later}")
    if forecast.free_disk is not None:
        needs.append(f"{format_bytes(forecast.free_disk)} of disk are free for results")

    takes = list(forecast.work)
    if known:
        pending = [stage.name for stage in plan.stages if stage.status is not Status.HIT]
        takes.append(total_text(list(known.items()), [name for name in pending if name not in known]))
    else:
        takes.append("how long is known after the first steps")
    return [f"needs  {'; '.join(needs)}", f"takes  {'; '.join(takes)}"]


def total_text(known: Sequence[tuple[str, Estimate]], unknown: Sequence[str]) -> str:
    """The total time, memory and disk of stages. known: names with estimates; unknown: names of those without."""
    from dbrun.plan.estimate import total_estimate

    total = total_estimate(one for _, one in known)
    # A stage without an estimate adds time and disk that the totals lack.
    least = "at least " if unknown else ""
    text = f"{least}about {format_duration(total.seconds)}"
    if total.memory is not None:
        text += f", up to about {format_bytes(total.memory)} of memory"
    if total.disk is not None:
        least_disk = "at least " if any(one.disk is None for _, one in known) else least
        text += f", {least_disk}{format_bytes(total.disk)} of disk for results"
    text += ", going by earlier runs"
    lacking = list(unknown)
    lacking += [f"the memory of {name}" for name, one in known if one.memory is None]
    lacking += [f"the disk of {name}" for name, one in known if one.disk is None]
    if lacking:
        text += f"; no estimate for {', '.join(dict.fromkeys(lacking))}"
    return text
