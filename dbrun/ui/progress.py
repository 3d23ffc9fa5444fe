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
    RunFailed,
    RunFinished,
    RunStarted,
    StageFinished,
    StageReused,
    StageStarted,
    as_json,
)
from dbrun.ui.terminal import clock, columns, cut, is_live, paint, put, say, width

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

ROOMY, LONG, SHORT = 100, 24, 12
"""Columns of a terminal from which on a bar is long; columns of a long bar and of a short one."""
SURE = 2.0
"""Seconds that a stage moves before the rest is estimated."""
QUIET_SECONDS = 15.0
"""Without a terminal, a stage says how far it is at most this often."""


SPARE = 4
"""Columns that a bar leaves free: a terminal writes ^C there, and a line that is wrapped cannot be taken back."""


def _far(event: Progress) -> str:
    return f"{event.done}/{event.total} {event.unit}"


def _metrics(event: Progress) -> list[str]:
    return [f"{name.replace('_', ' ')} {value:.3g}" for name, value in event.metrics.items()
            if name in ("loss", "learning_rate")]


class Lines:
    """Finished things, a line each; also what is said when nobody watches."""

    def __init__(self) -> None:
        self._column = 0
        self._spoke = time.monotonic()
        self._far = ""

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
                self._far = ""
                self.started(event)
            case Progress():
                self._far = _far(event)
                self.moved(event)
            case Note():
                style = "yellow" if event.level == "warning" else "dim"
                self.row(event.stage, paint(event.text, style, sys.stderr))
            case StageFinished():
                self.finished_stage(event)
            case RunFinished():
                self.finished(event)
            case RunFailed():
                self.broken(event)

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
        self.row(event.stage, "  ".join([_far(event), *_metrics(event)]))

    def finished_stage(self, event: StageFinished) -> None:
        """A stage is done."""
        self.row(event.stage, f"{paint('done', 'green', sys.stderr)}  {clock(event.seconds)}")

    def broken(self, event: RunFailed) -> None:
        """The run ended early: in which stage, and how far that had come."""
        if event.stage is not None:
            word, style = ("stopped", "yellow") if event.exit_code > 128 else ("failed", "red")
            self.row(event.stage, f"{paint(word, style, sys.stderr)}  {self._far}".rstrip())

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
        self._moves = time.monotonic()
        self._reason = ""

    def started(self, event: StageStarted) -> None:
        """A bar with the reason, until there is a number to show."""
        self._reason = event.reason
        self._move(event.stage, 0, None, [("goes on: " if event.resumed else "") + event.reason])

    def moved(self, event: Progress) -> None:
        """Redraw the bar."""
        self._move(event.stage, event.done, event.total, [_far(event), *_metrics(event)])

    def finished_stage(self, event: StageFinished) -> None:
        """What was done, how long it took, and why it was."""
        done, why = paint("done", "green", sys.stderr), paint(self._reason, "dim", sys.stderr)
        self.row(event.stage, f"{done}  {clock(event.seconds):>10}  {why}")

    def row(self, stage: str, text: str) -> None:
        """A finished line takes the bar's place."""
        self.close()
        super().row(stage, text)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _move(self, stage: str, done: int, total: int | None, words: list[str]) -> None:
        long = LONG if width(sys.stderr) >= ROOMY else SHORT
        if self._bar is None:
            self._bar = _bar(f"  {stage:<{self._column}} ", long)
            self._bar.start()
        # the first of a stage may be there already, and tell nothing of how long the others take
        if total is None or not done:
            self._moves = time.monotonic()
        elif time.monotonic() - self._moves > SURE and (left := self._bar.tasks[0].time_remaining):
            words.insert(1, f"{clock(left) if left >= 10 else f'{left:.0f} s'} left")
        first, *more = _fitting(words, width(sys.stderr) - SPARE - self._column - long - 5)
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, words=first,
                         metrics=" " + "  ".join(more) if more else "")


def _fitting(words: list[str], room: int) -> list[str]:
    """The first of these, cut where it must be, and those after it that stand beside it in so many columns."""
    shown = [cut(words[0], room)]
    for word in words[1:]:
        room -= columns(shown[-1]) + 2
        if columns(word) > room:
            break
        shown.append(word)
    return shown


def _bar(label: str, long: int) -> Bar:
    """One bar of so many columns that disappears when it stops."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    def words(name: str, style: str = "none") -> TextColumn:
        return TextColumn(f"{{task.fields[{name}]}}", style=style, markup=False)

    line = BarColumn(bar_width=long, complete_style="cyan", finished_style="green", pulse_style="cyan")
    bar = Bar(TextColumn(label, markup=False), line, words("words"), words("metrics", "dim"),
              console=Console(stderr=True), transient=True)
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
