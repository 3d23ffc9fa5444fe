"""Texts about runs on record: the list of runs, one run's log, the diff of two runs, a recipe's status."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby

from dbrun.disk_space import format_bytes
from dbrun.expectations import outcomes_from_json, summaries_from_json
from dbrun.plan.diff_runs import DiffRow, RunDiff
from dbrun.plan.planner import Plan
from dbrun.store.runs import RUN_ID, Run
from dbrun.ui.plan import status_word
from dbrun.ui.scores import scores_text
from dbrun.ui.table import GAP, align_or_stack, align_rows
from dbrun.ui.terminal import display_width, format_age, format_ago, format_duration, paint, terminal_width

CREATED_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
"""When a trace was made, in UTC, as the store writes it."""
MAX_PROGRESS_LINES = 10
"""Progress events of a stage that the log shows, approximately."""
METRIC_UNITS = {"images/s": ("images_per_second", ".3g"), "MiB": ("memory_mib", ".0f")}
"""Unit → the end of the names of metrics in this unit, and the format of their numbers."""
STYLES = {"running": "cyan", "done": "green", "failed": "red", "interrupted": "yellow", "killed": "yellow"}
"""State of a run → its colour."""


def run_table(rows: Sequence[tuple[Run, int]]) -> str:
    """A row for each run: id, age, state, disk usage and what it did. rows: runs with the bytes of their results."""
    sizes = [format_bytes(size) for _, size in rows]
    width = max(map(len, sizes), default=0)
    lines = []
    for (run, _), size in zip(rows, sizes, strict=True):
        outcome = outcome_text(run)
        if run.is_pinned:
            outcome = f"pinned; {outcome}" if outcome else "pinned"
        state = paint(run.state, STYLES[run.state], sys.stdout)
        lines.append([run.id, format_age(start_time(run) or 0.0), state, f"{size:>{width}}", outcome])
    return align_or_stack(lines, head=["run", "ago", "state", f"{'keeps':>{width}}", "what it did"])


def start_time(run: Run) -> float | None:
    """The time at which a run began, in seconds since 1970; None if its id holds none."""
    match = RUN_ID.fullmatch(run.id)
    return _parse_time(match["stamp"], "%Y%m%d-%H%M%S") if match else None


def _parse_time(stamp: str, form: str) -> float:
    import calendar

    return float(calendar.timegm(time.strptime(stamp, form)))


def outcome_text(run: Run) -> str:
    """What a run did, in a few words; empty if it was killed or still runs."""
    # Events are read from files that other versions wrote or that were cut off, so no member is taken for granted.
    last = run.last_event
    if last is None:
        return ""
    if last.get("event") == "run_finished":
        seconds = last.get("seconds")
        ran, reused = last.get("ran"), last.get("reused")
        if not ran or not isinstance(ran, int) or not isinstance(reused, int):
            return f"all cached{_scores_part(last)}"
        took = f", {format_duration(seconds)}" if isinstance(seconds, (int, float)) else ""
        return f"{ran} of {ran + reused} ran{took}{_scores_part(last)}"
    if run.state == "interrupted":
        return f"stopped in {last['stage']}" if last.get("stage") else "stopped"
    message = str(last.get("message") or "").partition("\n")[0]
    stage = str(last.get("stage") or "")
    return message if message.startswith(stage) else f"{stage}: {message}"


def _scores_part(event: Mapping[str, object]) -> str:
    """The scores of a finished run after a semicolon, and whether they are below what is expected; empty without any.
    """
    scores = summaries_from_json(event.get("scores"))
    if not scores:
        return ""
    outcomes = outcomes_from_json(event.get("expectations"))
    below = "" if all(outcome.met for outcome in outcomes) else ", below expectation"
    return f"; {scores_text(scores)}{below}"


def log_lines(events: Iterable[Mapping[str, object]], log: str | None) -> str:
    """A run's events, one a line with its local time, then the traceback if there is one. log: the run's log file.

    Of a stage's progress events about MAX_PROGRESS_LINES are shown, the last one among them.
    """
    rows = []
    for event in _thin_progress(events):
        text = _event_text(event)
        if text:
            seconds = float(str(event.get("time", 0)))
            clock = time.strftime("%H:%M:%S", time.localtime(seconds))
            rows.append([clock, str(event.get("stage") or ""), text])
    parts = [align_rows(rows, styles=["dim"])] if rows else []
    traceback = (log or "").rstrip()
    if traceback:
        parts.append(traceback)
    return "\n".join(parts)


def _thin_progress(events: Iterable[Mapping[str, object]]) -> Iterator[Mapping[str, object]]:
    """All events, except that only some of consecutive progress events are kept."""
    # the time left is of no use afterwards, and would part a stage's progress into many groups
    lasting = [event for event in events if event.get("event") != "time_left"]
    for is_progress, group in groupby(lasting, key=lambda event: event.get("event") == "progress"):
        consecutive = list(group)
        if not is_progress:
            yield from consecutive
            continue
        # Counted from the end, so that the last one, which has the final numbers, is always kept.
        step = -(-len(consecutive) // MAX_PROGRESS_LINES)
        newest_first = consecutive[::-1][::step]
        yield from reversed(newest_first)


def _metric_text(name: str, value: float) -> str:
    """A metric of a training with its unit; without a known unit, its name and its value."""
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
            verb = "resumes" if event.get("resumed") else "runs"
            return f"{verb}: {event.get('reason')}"
        case "libraries_loading":
            return "loading libraries"
        case "progress":
            return _progress_text(event)
        case "note":
            prefix = "warning: " if event.get("level") == "warning" else ""
            return f"{prefix}{event.get('text')}"
        case "stage_finished":
            return f"done  {format_duration(float(str(event.get('seconds', 0))))}{_memory_text(event)}"
        case "run_finished":
            return f"done  {event.get('ran')} ran, {event.get('reused')} cached{_scores_part(event)}"
        case "run_failed":
            fix = f" → {event['fix']}" if event.get("fix") else ""
            return f"failed: {event.get('message')}{fix}"
    return ""


def _memory_text(event: Mapping[str, object]) -> str:
    """The measured peak memory of a stage, and beside it what was counted before."""
    measured, counted = event.get("memory"), event.get("counted")
    if not isinstance(measured, int):
        return ""
    text = f"  peak {format_bytes(measured)}"
    return f"{text} (counted {format_bytes(counted)})" if isinstance(counted, int) else text


def _progress_text(event: Mapping[str, object]) -> str:
    text = f"{event.get('done')}/{event.get('total')} {event.get('unit')}"
    metrics = event.get("metrics")
    if isinstance(metrics, dict):
        for name, value in metrics.items():
            if isinstance(value, (int, float)):
                text += f"  {_metric_text(name, value)}"
    return text


def comparison(found: RunDiff, first: Run, second: Run) -> str:
    """The differences between two runs as up to three tables: recipe, keys of stages, results."""
    tables = {"recipe": found.recipe, "keys of stages": found.stages, "results": found.results}
    heads, bodies = [], []
    for title, rows in tables.items():
        if rows:
            heads.append([title, "a", "b"])
            bodies.append(_cells(rows))

    # The tables share their column widths, so that the eye has one way down.
    every = [*heads, *chain.from_iterable(bodies)]
    name_width = max((display_width(row[0]) for row in every), default=0)
    half = sys.maxsize
    if sys.stdout.isatty():
        half = (terminal_width(sys.stdout) - name_width) // 2 - len(GAP)
    value_width = max((display_width(row[1]) for row in every if _fits(row, half)), default=0)

    blocks = []
    for head, body in zip(heads, bodies, strict=True):
        padded = [head[0].ljust(name_width), head[1].ljust(value_width), head[2]]
        lines = [align_rows([row for row in body if _fits(row, half)], head=padded)]
        # Values too long for a column are written below their name.
        for name, a, b in body:
            if not _fits([name, a, b], half):
                lines.append(f"{name}\n{align_rows([['  a', a], ['  b', b]])}")
        blocks.append("\n".join(lines))
    if found.same_stages:
        blocks.append(align_rows([[f"the same in both: {', '.join(found.same_stages)}"]]))
    if heads:
        blocks.insert(0, align_rows([["a", first.id], ["b", second.id]], styles=["dim"]))
    return "\n\n".join(blocks) or "the two runs are the same"


def _fits(row: Sequence[str], half: int) -> bool:
    """Whether both values of a row are at most half columns wide."""
    return max(map(display_width, row[1:])) <= half


def _cells(rows: Sequence[DiffRow]) -> list[list[str]]:
    return [[name, a or "-", b or "-"] for name, a, b in rows]


def status_text(plan: Plan, made: Mapping[str, tuple[str, float]], last: Run | None, outputs: tuple[str, str],
                at_work: str | None) -> str:
    """The state of a recipe: its stages, its outputs and its last run.

    made: stage → when its result was made and the seconds that took; last: the newest run of the recipe;
    outputs: the folder and its state; at_work: the progress of the last run if it is alive.
    """
    rows = []
    for stage in plan.stages:
        text = str(stage.reason)
        if stage.name in made:
            created, seconds = made[stage.name]
            text = f"made {format_ago(_parse_time(created, CREATED_FORMAT))}, took {format_duration(seconds)}"
        rows.append([stage.name, status_word(stage.status), text])
    name_width = max(len(stage.name) for stage in plan.stages)
    below = [["outputs".ljust(name_width), f"{outputs[0]}, {outputs[1]}"]]
    if last is not None:
        text = f"{last.id}, {paint(last.state, STYLES[last.state], sys.stdout)}"
        outcome = at_work or outcome_text(last)
        if outcome:
            text += f", {outcome}"
        below.append(["last run", text])
    return f"{align_rows(rows)}\n{align_rows(below)}"
