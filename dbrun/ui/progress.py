"""How a run looks while it goes on: a live bar on a terminal, plain lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from dbrun.events import (
    Event,
    Note,
    Progress,
    RunFinished,
    RunStarted,
    StageFinished,
    StageReused,
    StageStarted,
    as_json,
)
from dbrun.ui.terminal import clock, is_live, paint, put, say

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

QUIET_SECONDS = 15.0
"""Without a terminal, a stage says how far it is at most this often."""


def _metrics(event: Progress) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in event.metrics.items()
                     if name in ("loss", "learning_rate"))


class Lines:
    """Finished things, a line each; also what is said when nobody watches."""

    def __init__(self) -> None:
        self._column = 0
        self._spoke = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Render one event."""
        match event:
            case RunStarted():
                self._column = max((len(s) for s in event.stages), default=0)
                self._spoke = time.monotonic()
                say(f"{paint(event.name, 'bold', sys.stderr)}  {paint(event.recipe, 'dim', sys.stderr)}")
            case StageReused():
                self.row(event.stage, paint("cached", "dim", sys.stderr))
            case StageStarted():
                self.started(event)
            case Progress():
                self.moved(event)
            case Note():
                style = "yellow" if event.level == "warning" else "dim"
                self.row(event.stage, paint(event.text, style, sys.stderr))
            case StageFinished():
                self.finished_stage(event)
            case RunFinished():
                self.finished(event)

    def row(self, stage: str, text: str) -> None:
        """A line that begins with the stage's name."""
        say(f"  {stage:<{self._column}}  {text}", indent=self._column + 4)

    def started(self, event: StageStarted) -> None:
        """A stage begins."""
        word = "goes on" if event.resumed else "runs"
        self.row(event.stage, f"{word}: {event.reason}")

    def moved(self, event: Progress) -> None:
        """A stage is further on; said now and then."""
        if time.monotonic() - self._spoke < QUIET_SECONDS or event.done == event.total:
            return
        self._spoke = time.monotonic()
        self.row(event.stage, f"{event.done}/{event.total} {event.unit}  {_metrics(event)}".rstrip())

    def finished_stage(self, event: StageFinished) -> None:
        """A stage is done."""
        self.row(event.stage, f"{paint('done', 'green', sys.stderr)}  {clock(event.seconds)}")

    def close(self) -> None:
        """Leave the screen as it is; nothing is held open."""

    def finished(self, event: RunFinished) -> None:
        """The run is over."""
        work = (f"{event.ran} ran, {event.reused} cached  {clock(event.seconds)}" if event.ran else
                "nothing to do, all stages cached")
        say(f"{paint('done', 'green', sys.stderr)}  {work}")
        if event.ran and event.outputs:
            say(f"look at {event.outputs}/before_after.png")


class Live(Lines):
    """Lines for what is finished and, below them, a bar for the stage that runs."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Bar | None = None
        self._reason = ""

    def started(self, event: StageStarted) -> None:
        """A bar with the reason, until there is a number to show."""
        self._reason = event.reason
        self._move(event.stage, 0, None, ("goes on: " if event.resumed else "") + event.reason, "")

    def moved(self, event: Progress) -> None:
        """Redraw the bar."""
        self._move(event.stage, event.done, event.total, f"{event.done}/{event.total} {event.unit}", _metrics(event))

    def finished_stage(self, event: StageFinished) -> None:
        """What was done, how long it took, and why it was."""
        done, why = paint("done", "green", sys.stderr), paint(self._reason, "dim", sys.stderr)
        self.row(event.stage, f"{done}    {clock(event.seconds):>12}  {why}")

    def row(self, stage: str, text: str) -> None:
        """A finished line takes the bar's place."""
        self.close()
        super().row(stage, text)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _move(self, stage: str, done: int, total: int | None, words: str, metrics: str) -> None:
        if self._bar is None:
            self._bar = _bar(f"{stage:<{self._column}}")
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, words=words, metrics=metrics)


def _bar(label: str) -> Bar:
    """One bar that disappears when it stops; what does not fit into the terminal's width is cut off."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    def words(name: str, style: str = "none") -> TextColumn:
        return TextColumn(f"{{task.fields[{name}]}}", style=style, markup=False,
                          table_column=Column(no_wrap=True, overflow="ellipsis"))

    line = BarColumn(bar_width=24, complete_style="cyan", finished_style="green", pulse_style="cyan")
    bar = Bar(TextColumn(f"  {label} "), line, words("words"), TimeRemainingColumn(compact=True),
              words("metrics", "dim"), console=Console(stderr=True), transient=True)
    bar.add_task(label, total=None, words="", metrics="")
    return bar


class JsonLines:
    """One JSON object a line on stdout, for programs."""

    def __call__(self, event: Event) -> None:
        """Write one event."""
        put(json.dumps(as_json(event), ensure_ascii=False))

    def close(self) -> None:
        """Nothing is held open."""


def watcher(as_json: bool) -> Lines | JsonLines:
    """What renders a run's events here."""
    if as_json:
        return JsonLines()
    return Live() if is_live(sys.stderr) else Lines()
