"""Texts about the jobs of many runs: the table of what they need, and how submitted ones do."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbrun.disk_space import format_bytes
from dbrun.events import Event, JobChanged, JobsFinished, Note
from dbrun.ui.plan import note_text
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import (
    escape_controls,
    format_duration,
    is_interactive,
    paint,
    pluralize,
    print_result,
    print_status,
    terminal_width,
    truncate,
)

if TYPE_CHECKING:
    from rich.live import Live

MAX_ROWS = 40
"""Jobs that a table shows; of more, the rest is counted."""
MAX_NOTES = 10
"""Notes that are shown; of more, the rest is counted."""
RIGHT_MARGIN = 4
"""Columns that the live line leaves free: a terminal writes ^C there."""
STYLES = {"run": "cyan", "resume": "yellow", "deliver": "cyan", "blocked": "red",
          "waiting": "yellow", "done": "green", "failed": "red", "stopped": "yellow", "skipped": "yellow"}
"""Status or state of a job → its colour."""


@dataclass(frozen=True)
class JobRow:
    """A job in a table. status: run, resume, deliver or blocked; gpus, memory, seconds: 0 or None where unknown."""

    title: str
    status: str
    stages: tuple[str, ...]
    gpus: int
    memory: int | None
    seconds: float | None


def jobs_table(rows: Sequence[JobRow], runs: int) -> str:
    """A row for each job, then the totals. runs: number of runs that were planned."""
    if not rows:
        return f"{pluralize(runs, 'run')}: nothing to do"
    shown = rows[:MAX_ROWS]
    # a column that says nothing is left out
    columns: list[tuple[str, list[str]]] = [
        ("job", [row.title for row in shown]),
        ("status", [paint(row.status.upper(), STYLES[row.status], sys.stdout) for row in shown])]
    if any(row.gpus for row in rows):
        columns.append(("gpus", [str(row.gpus or "") for row in shown]))
    if any(row.memory for row in rows):
        columns.append(("memory", [format_bytes(row.memory) if row.memory else "" for row in shown]))
    if any(row.seconds is not None for row in rows):
        columns.append(("time", [_time_text(row.seconds) for row in shown]))
    columns.append(("stages", [", ".join(row.stages) or "only its delivery" for row in shown]))
    head = [name for name, _ in columns]
    lines = list(zip(*(cells for _, cells in columns), strict=True))
    blocks = [align_rows(lines, head=head, short=True)]
    if len(rows) > len(shown):
        blocks.append(paint(f"  {len(rows) - len(shown):,} more; --json has all", "dim", sys.stdout))
    return "\n".join([*blocks, _totals(rows, runs)])


def _time_text(seconds: float | None) -> str:
    return "" if seconds is None else f"~{format_duration(seconds)}"


def _totals(rows: Sequence[JobRow], runs: int) -> str:
    text = f"{pluralize(len(rows), 'job')} for {pluralize(runs, 'run')}"
    known = [row.seconds for row in rows if row.seconds is not None]
    if known:
        least = "at least " if len(known) < len(rows) else ""
        text += f"; {least}about {format_duration(sum(known))} one after another, going by earlier runs"
    return text


def note_lines(notes: Mapping[Note, int], runs: int) -> list[str]:
    """The notes about many runs. notes: note → the number of runs that it is about."""
    lines = []
    # what most runs share comes first; a note about single pictures may differ from run to run
    for note, count in sorted(notes.items(), key=lambda entry: -entry[1])[:MAX_NOTES]:
        which = "" if count == runs else f" ({pluralize(count, 'run')})"
        lines.append(note_text(note) + which)
    if len(notes) > MAX_NOTES:
        lines.append(f"{len(notes) - MAX_NOTES:,} more notes; --json has all")
    return lines


class JobReporter:
    """Reporter of submitted jobs: a line to stderr for each that ends, and on a terminal a live one for the rest."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._states: dict[str, str] = {}
        self._running: dict[str, str] = {}
        self._live: Live | None = None

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, JobsFinished):
            self.close()
            print_result(ended_table(event))
        if not isinstance(event, JobChanged):
            return
        before = self._states.get(event.job)
        self._states[event.job] = event.state
        self._running.pop(event.job, None)
        if event.state == "running":
            self._running[event.job] = f"{event.title} {event.text}".rstrip()
        # a job that waits with a text was running before, and is started again
        if event.state not in (before, "running") and (event.state != "waiting" or event.text):
            self._print(event)
        if self._live is None and is_interactive(sys.stderr):
            self._live = _start_live(self._line)
        if self._live is not None:
            self._live.refresh()

    def close(self) -> None:
        """Take the live line off the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, event: JobChanged) -> None:
        if self._live is not None:
            # printed above the live line, which is drawn anew
            self._live.stop()
            self._live = None
        took = f"  {format_duration(event.seconds)}" if event.seconds is not None else ""
        word = paint(f"{event.state:<7}", STYLES[event.state], sys.stderr)
        why = f": {event.text}" if event.text and event.state != "done" else ""
        print_status(f"{word}  {event.title}{took}{why}", indent=9)

    def _line(self) -> str:
        counts = Counter(self._states.values())
        ended = sum(count for state, count in counts.items() if state not in ("waiting", "running"))
        parts = [f"{ended:,} of {pluralize(self._total, 'job')}"]
        if counts["failed"]:
            parts.append(f"{counts['failed']:,} failed")
        return "  ".join([", ".join(parts), *self._running.values()])


def _start_live(make_text: Callable[[], str]) -> Live:
    """A live line; it disappears when it stops."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def line() -> Text:
        shown = escape_controls(make_text(), sys.stderr)
        return Text(truncate(shown, terminal_width(sys.stderr) - RIGHT_MARGIN), style="dim")

    live = Live(get_renderable=line, console=Console(stderr=True), transient=True, auto_refresh=False,
                redirect_stdout=False, redirect_stderr=False)
    live.start(refresh=True)
    return live


def ended_table(event: JobsFinished) -> str:
    """What became of submitted jobs: a row for each that did not succeed, then the counts."""
    rows: list[list[str]] = []
    counts: Counter[str] = Counter()
    for job in event.jobs:
        state = str(job["state"])
        counts[state] += 1
        if state != "done":
            rows.append([str(job["title"]), paint(state, STYLES[state], sys.stdout), str(job["text"])])
    total = ", ".join(f"{count:,} {state}" for state, count in counts.items()) or "nothing to do"
    blocks = [align_rows(rows[:MAX_ROWS])] if rows else []
    if len(rows) > MAX_ROWS:
        blocks.append(paint(f"  {len(rows) - MAX_ROWS:,} more", "dim", sys.stdout))
    return "\n".join([*blocks, f"{total}; {format_duration(event.seconds)}"])
