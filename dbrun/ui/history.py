"""How runs on record look: a list of them, what one said, how two differ, how things stand now."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from dbrun.disk_space import words as bytes_in_words
from dbrun.plan.diff_runs import Comparison, Row
from dbrun.plan.planner import Plan
from dbrun.store.runs import RUN, Run
from dbrun.ui.plan import status_word
from dbrun.ui.table import GAP, aligned, listed
from dbrun.ui.terminal import ago, clock, columns, paint, past, width

CREATED = "%Y-%m-%dT%H:%M:%SZ"
STEPS = 10
"""Steps on the way that the log of a stage shows, about."""
UNITS = {"images/s": ("images_per_second", ".3g"), "MiB": ("memory_mib", ".0f")}
"""Unit → the metric in it, and how its numbers are written."""
STYLES = {"running": "cyan", "done": "green", "failed": "red", "interrupted": "yellow", "killed": "yellow"}


def run_table(rows: Sequence[tuple[Run, int]]) -> str:
    """A line a run: id, how long ago it began, how it stands, the bytes that its results take, what it did."""
    sizes = [bytes_in_words(size) for _, size in rows]
    wide = max(map(len, sizes), default=0)
    lines = [[run.id, past(began(run) or 0.0), paint(run.state, STYLES[run.state], sys.stdout), f"{size:>{wide}}",
              "; ".join(part for part in ("pinned" if run.pinned else "", ended(run)) if part)]
             for (run, _), size in zip(rows, sizes, strict=True)]
    return listed(lines, head=["run", "ago", "state", f"{'keeps':>{wide}}", "what it did"])


def began(run: Run) -> float | None:
    """When a run began, in seconds of the system's clock."""
    match = RUN.fullmatch(run.id)
    return _seconds(match["stamp"], "%Y%m%d-%H%M%S") if match else None


def _seconds(stamp: str, form: str) -> float:
    import calendar

    return float(calendar.timegm(time.strptime(stamp, form)))


def ended(run: Run) -> str:
    """What a run did, in a few words."""
    last = run.ended
    if last is None:
        return ""
    if last.get("event") == "run_finished":
        seconds = last.get("seconds")
        ran, reused = last.get("ran"), last.get("reused")
        if not ran or not isinstance(ran, int) or not isinstance(reused, int):
            return "all cached"
        return f"{ran} of {ran + reused} ran" + (f", {clock(seconds)}" if isinstance(seconds, (int, float)) else "")
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
             str(event.get("stage") or ""), text] for event in _thinned(events) if (text := _event(event))]
    return "\n".join(part for part in (aligned(rows, styles=["dim"]) if rows else "", (log or "").rstrip()) if part)


def _thinned(events: Iterable[Mapping[str, object]]) -> Iterator[Mapping[str, object]]:
    """Every event, but of steps that follow each other as many as are read."""
    for moved, group in groupby(events, key=lambda event: event.get("event") == "progress"):
        found = list(group)
        yield from found[::-1][::-(-len(found) // STEPS)][::-1] if moved else found


def _metric(name: str, value: float) -> str:
    """A number that a training tells, with its unit."""
    for unit, (ending, form) in UNITS.items():
        if name.endswith(ending):
            return f"{value:{form}} {unit}"
    return f"{name.replace('_', ' ')} {value:.3g}"


def _event(event: Mapping[str, object]) -> str:
    match event.get("event"):
        case "run_started":
            return f"{event.get('name')} begins: {event.get('recipe')}"
        case "stage_reused":
            return "cached"
        case "stage_started":
            return f"{'goes on' if event.get('resumed') else 'runs'}: {event.get('reason')}"
        case "progress":
            metrics = event.get("metrics")
            words = "  ".join(_metric(name, value) for name, value in metrics.items()
                              if isinstance(value, (int, float))) if isinstance(metrics, dict) else ""
            return f"{event.get('done')}/{event.get('total')} {event.get('unit')}  {words}".rstrip()
        case "note":
            return f"{'warning: ' if event.get('level') == 'warning' else ''}{event.get('text')}"
        case "stage_finished":
            return f"done  {clock(float(str(event.get('seconds', 0))))}"
        case "run_finished":
            return f"done  {event.get('ran')} ran, {event.get('reused')} cached"
        case "run_failed":
            fix = f" → {event['fix']}" if event.get("fix") else ""
            return f"failed: {event.get('message')}{fix}"
    return ""


def comparison(found: Comparison, first: Run, second: Run) -> str:
    """What differs between two runs; what is equal is only named."""
    parts = [(title, rows) for title, rows in (("recipe", found.recipe), ("keys of stages", found.stages),
                                               ("results", found.results)) if rows]
    cells = {title: [[title, "a", "b"], *_cells(rows)] for title, rows in parts}
    names = max((columns(row[0]) for rows in cells.values() for row in rows), default=0)
    half = (width(sys.stdout) - names) // 2 - len(GAP) if sys.stdout.isatty() else sys.maxsize
    # one column under the other, so that the eye has one way down; what is too long for that, below its name
    wide = max((columns(row[1]) for rows in cells.values() for row in rows if _fits(row, half)), default=0)
    blocks = ["\n".join([aligned([row for row in rows if _fits(row, half)],
                                 head=[cell.ljust(size) for cell, size in zip(head, [names, wide, 0], strict=True)]),
                         *(f"{name}\n{aligned([['  a', a], ['  b', b]])}"
                           for name, a, b in rows if not _fits([name, a, b], half))])
              for head, *rows in cells.values()]
    if found.same:
        blocks.append(aligned([[f"the same in both: {', '.join(found.same)}"]]))
    if cells:
        blocks.insert(0, aligned([["a", first.id], ["b", second.id]], styles=["dim"]))
    return "\n\n".join(blocks) or "the two runs are the same"


def _fits(row: Sequence[str], half: int) -> bool:
    """Whether both values of a row fit beside each other into so many columns each."""
    return max(map(columns, row[1:])) <= half


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    return [[name, a or "-", b or "-"] for name, a, b in rows]


def standing(plan: Plan, made: Mapping[str, tuple[str, float]], last: Run | None, outputs: tuple[str, str],
             at_work: str | None) -> str:
    """How a recipe stands. made: stage → when its result was made and how long that took; outputs: where, how."""
    rows = []
    for stage in plan.stages:
        when, seconds = made.get(stage.name, ("", 0.0))
        words = str(stage.reason)
        if stage.name in made:
            words = f"made {ago(_seconds(when, CREATED))}, took {clock(seconds)}"
        rows.append([stage.name, status_word(stage.status), words])
    below = [["outputs".ljust(max(len(stage.name) for stage in plan.stages)), f"{outputs[0]}, {outputs[1]}"]]
    if last is not None:
        state = paint(last.state, STYLES[last.state], sys.stdout)
        below.append(["last run", f"{last.id}, {state}" + (f", {words}" if (words := at_work or ended(last)) else "")])
    return f"{aligned(rows)}\n{aligned(below)}"
