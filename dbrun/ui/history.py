"""How runs on record look: a list of them, what one said, how two differ, how things stand now."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from dbrun.disk_space import format_bytes
from dbrun.plan.diff_runs import DiffRow, RunDiff
from dbrun.plan.planner import Plan
from dbrun.store.runs import RUN_ID, Run
from dbrun.ui.plan import status_word
from dbrun.ui.table import GAP, align_or_stack, align_rows
from dbrun.ui.terminal import display_width, format_age, format_ago, format_duration, paint, terminal_width

CREATED_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
MAX_PROGRESS_LINES = 10
"""Steps on the way that the log of a stage shows, about."""
METRIC_UNITS = {"images/s": ("images_per_second", ".3g"), "MiB": ("memory_mib", ".0f")}
"""Unit → the metric in it, and how its numbers are written."""
STYLES = {"running": "cyan", "done": "green", "failed": "red", "interrupted": "yellow", "killed": "yellow"}


def run_table(rows: Sequence[tuple[Run, int]]) -> str:
    """A line a run: id, how long ago it began, how it stands, the bytes that its results take, what it did."""
    sizes = [format_bytes(size) for _, size in rows]
    wide = max(map(len, sizes), default=0)
    lines = [[run.id, format_age(start_time(run) or 0.0), paint(run.state, STYLES[run.state], sys.stdout),
              f"{size:>{wide}}",
              "; ".join(part for part in ("pinned" if run.is_pinned else "", outcome_text(run)) if part)]
             for (run, _), size in zip(rows, sizes, strict=True)]
    return align_or_stack(lines, head=["run", "ago", "state", f"{'keeps':>{wide}}", "what it did"])


def start_time(run: Run) -> float | None:
    """When a run began, in seconds of the system's clock."""
    match = RUN_ID.fullmatch(run.id)
    return _parse_time(match["stamp"], "%Y%m%d-%H%M%S") if match else None


def _parse_time(stamp: str, form: str) -> float:
    import calendar

    return float(calendar.timegm(time.strptime(stamp, form)))


def outcome_text(run: Run) -> str:
    """What a run did, in a few words."""
    last = run.last_event
    if last is None:
        return ""
    if last.get("event") == "run_finished":
        seconds = last.get("seconds")
        ran, reused = last.get("ran"), last.get("reused")
        if not ran or not isinstance(ran, int) or not isinstance(reused, int):
            return "all cached"
        took = f", {format_duration(seconds)}" if isinstance(seconds, (int, float)) else ""
        return f"{ran} of {ran + reused} ran{took}"
    if run.state == "interrupted":
        return f"stopped in {last['stage']}" if last.get("stage") else "stopped"
    words = str(last.get("message") or "").partition("\n")[0]
    stage = str(last.get("stage") or "")
    return words if words.startswith(stage) else f"{stage}: {words}"


def log_lines(events: Iterable[Mapping[str, object]], log: str | None) -> str:
    """What a run said, a line an event with its time, then the traceback if it left one.

    Of a stage's steps on the way some are shown, the last among them.
    """
    rows = [[time.strftime("%H:%M:%S", time.localtime(float(str(event.get("time", 0))))),
             str(event.get("stage") or ""), text] for event in _thin_progress(events) if (text := _event_text(event))]
    return "\n".join(part for part in (align_rows(rows, styles=["dim"]) if rows else "", (log or "").rstrip()) if part)


def _thin_progress(events: Iterable[Mapping[str, object]]) -> Iterator[Mapping[str, object]]:
    """Every event, but of steps that follow each other as many as are read."""
    for moved, group in groupby(events, key=lambda event: event.get("event") == "progress"):
        found = list(group)
        yield from found[::-1][::-(-len(found) // MAX_PROGRESS_LINES)][::-1] if moved else found


def _metric_text(name: str, value: float) -> str:
    """A number that a training tells, with its unit."""
    for unit, (ending, form) in METRIC_UNITS.items():
        if name.endswith(ending):
            return f"{value:{form}} {unit}"
    return f"{name.replace('_', ' ')} {value:.3g}"


def _event_text(event: Mapping[str, object]) -> str:
    match event.get("event"):
        case "run_started":
            return f"{event.get('name')} begins: {event.get('recipe')}"
        case "stage_reused":
            return "cached"
        case "stage_started":
            return f"{'goes on' if event.get('resumed') else 'runs'}: {event.get('reason')}"
        case "progress":
            metrics = event.get("metrics")
            words = "  ".join(_metric_text(name, value) for name, value in metrics.items()
                              if isinstance(value, (int, float))) if isinstance(metrics, dict) else ""
            return f"{event.get('done')}/{event.get('total')} {event.get('unit')}  {words}".rstrip()
        case "note":
            return f"{'warning: ' if event.get('level') == 'warning' else ''}{event.get('text')}"
        case "stage_finished":
            return f"done  {format_duration(float(str(event.get('seconds', 0))))}"
        case "run_finished":
            return f"done  {event.get('ran')} ran, {event.get('reused')} cached"
        case "run_failed":
            fix = f" → {event['fix']}" if event.get("fix") else ""
            return f"failed: {event.get('message')}{fix}"
    return ""


def comparison(found: RunDiff, first: Run, second: Run) -> str:
    """What differs between two runs; what is equal is only named."""
    parts = [(title, rows) for title, rows in (("recipe", found.recipe), ("keys of stages", found.stages),
                                               ("results", found.results)) if rows]
    cells = {title: [[title, "a", "b"], *_cells(rows)] for title, rows in parts}
    names = max((display_width(row[0]) for rows in cells.values() for row in rows), default=0)
    half = (terminal_width(sys.stdout) - names) // 2 - len(GAP) if sys.stdout.isatty() else sys.maxsize
    # one column under the other, so that the eye has one way down; what is too long for that, below its name
    wide = max((display_width(row[1]) for rows in cells.values() for row in rows if _fits(row, half)), default=0)
    blocks = ["\n".join([align_rows([row for row in rows if _fits(row, half)],
                                    head=[cell.ljust(size) for cell, size in zip(head, [names, wide, 0], strict=True)]),
                         *(f"{name}\n{align_rows([['  a', a], ['  b', b]])}"
                           for name, a, b in rows if not _fits([name, a, b], half))])
              for head, *rows in cells.values()]
    if found.same_stages:
        blocks.append(align_rows([[f"the same in both: {', '.join(found.same_stages)}"]]))
    if cells:
        blocks.insert(0, align_rows([["a", first.id], ["b", second.id]], styles=["dim"]))
    return "\n\n".join(blocks) or "the two runs are the same"


def _fits(row: Sequence[str], half: int) -> bool:
    """Whether both values of a row fit beside each other into so many columns each."""
    return max(map(display_width, row[1:])) <= half


def _cells(rows: Sequence[DiffRow]) -> list[list[str]]:
    return [[name, a or "-", b or "-"] for name, a, b in rows]


def status_text(plan: Plan, made: Mapping[str, tuple[str, float]], last: Run | None, outputs: tuple[str, str],
                at_work: str | None) -> str:
    """How a recipe stands. made: stage → when its result was made and how long that took; outputs: where, how."""
    rows = []
    for stage in plan.stages:
        when, seconds = made.get(stage.name, ("", 0.0))
        words = str(stage.reason)
        if stage.name in made:
            words = f"made {format_ago(_parse_time(when, CREATED_FORMAT))}, took {format_duration(seconds)}"
        rows.append([stage.name, status_word(stage.status), words])
    below = [["outputs".ljust(max(len(stage.name) for stage in plan.stages)), f"{outputs[0]}, {outputs[1]}"]]
    if last is not None:
        state = paint(last.state, STYLES[last.state], sys.stdout)
        below.append(["last run",
                      f"{last.id}, {state}" + (f", {words}" if (words := at_work or outcome_text(last)) else "")])
    return f"{align_rows(rows)}\n{align_rows(below)}"
