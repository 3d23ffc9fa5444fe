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
from dbrun.ui.terminal import (
    display_width,
    escape_controls,
    format_duration,
    is_interactive,
    paint,
    print_result,
    print_status,
    terminal_width,
    truncate,
)

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

WIDE_TERMINAL, LONG_BAR, SHORT_BAR = 100, 24, 12
"""Columns of a terminal from which on a bar is long; columns of a long bar and of a short one."""
ETA_DELAY_SECONDS = 2.0
"""Seconds that a stage moves before the rest is estimated."""
QUIET_SECONDS = 15.0
"""Without a terminal, a stage says how far it is at most this often."""


RIGHT_MARGIN = 4
"""Columns that a bar leaves free: a terminal writes ^C there, and a line that is wrapped cannot be taken back."""


def _progress_text(event: Progress) -> str:
    return f"{event.done}/{event.total} {event.unit}"


def _metrics(event: Progress) -> list[str]:
    return [f"{name.replace('_', ' ')} {value:.3g}" for name, value in event.metrics.items()
            if name in ("loss", "learning_rate")]


class LineReporter:
    """Finished things, a line each; also what is said when nobody watches."""

    def __init__(self) -> None:
        self._name_width = 0
        self._last_print = time.monotonic()
        self._progress_text = ""

    def __call__(self, event: Event) -> None:
        """Render one event."""
        match event:
            case RunStarted():
                self._name_width = max((len(s) for s in event.stages), default=0)
                self._last_print = time.monotonic()
                print_status(f"{paint(event.name, 'bold', sys.stderr)}  {paint(event.recipe, 'dim', sys.stderr)}")
            case StageReused():
                self.print_row(event.stage, paint("cached", "dim", sys.stderr))
            case StageStarted():
                self._progress_text = ""
                self.on_stage_started(event)
            case Progress():
                self._progress_text = _progress_text(event)
                self.on_progress(event)
            case Note():
                style = "yellow" if event.level == "warning" else "dim"
                self.print_row(event.stage, paint(event.text, style, sys.stderr))
            case StageFinished():
                self.on_stage_finished(event)
            case RunFinished():
                self.on_run_finished(event)
            case RunFailed():
                self.on_run_failed(event)

    def print_row(self, stage: str, text: str) -> None:
        """A line that begins with the stage's name."""
        print_status(f"  {stage:<{self._name_width}}  {text}", indent=self._name_width + 4)

    def on_stage_started(self, event: StageStarted) -> None:
        """A stage begins."""
        word = "goes on" if event.resumed else "runs"
        self.print_row(event.stage, f"{word}: {event.reason}")

    def on_progress(self, event: Progress) -> None:
        """A stage is further on; said now and then."""
        if time.monotonic() - self._last_print < QUIET_SECONDS or event.done == event.total:
            return
        self._last_print = time.monotonic()
        self.print_row(event.stage, "  ".join([_progress_text(event), *_metrics(event)]))

    def on_stage_finished(self, event: StageFinished) -> None:
        """A stage is done."""
        self.print_row(event.stage, f"{paint('done', 'green', sys.stderr)}  {format_duration(event.seconds)}")

    def on_run_failed(self, event: RunFailed) -> None:
        """The run ended early: in which stage, and how far that had come."""
        if event.stage is not None:
            word, style = ("stopped", "yellow") if event.exit_code > 128 else ("failed", "red")
            self.print_row(event.stage, f"{paint(word, style, sys.stderr)}  {self._progress_text}".rstrip())

    def close(self) -> None:
        """Leave the screen as it is; nothing is held open."""

    def on_run_finished(self, event: RunFinished) -> None:
        """The run is over."""
        work = (f"{event.ran} ran, {event.reused} cached  {format_duration(event.seconds)}" if event.ran else
                "nothing to do, all stages cached")
        print_status(f"{paint('done', 'green', sys.stderr)}  {work}")
        if event.ran and event.outputs:
            print_status(f"look at {event.outputs}/before_after.png")


class LiveReporter(LineReporter):
    """LineReporter for what is finished and, below them, a bar for the stage that runs."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Bar | None = None
        self._started_at = time.monotonic()
        self._reason = ""

    def on_stage_started(self, event: StageStarted) -> None:
        """A bar with the reason, until there is a number to show."""
        self._reason = event.reason
        self._update_bar(event.stage, 0, None, [("goes on: " if event.resumed else "") + event.reason])

    def on_progress(self, event: Progress) -> None:
        """Redraw the bar."""
        self._update_bar(event.stage, event.done, event.total, [_progress_text(event), *_metrics(event)])

    def on_stage_finished(self, event: StageFinished) -> None:
        """What was done, how long it took, and why it was."""
        done, why = paint("done", "green", sys.stderr), paint(self._reason, "dim", sys.stderr)
        self.print_row(event.stage, f"{done}  {format_duration(event.seconds):>10}  {why}")

    def print_row(self, stage: str, text: str) -> None:
        """A finished line takes the bar's place."""
        self.close()
        super().print_row(stage, text)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _update_bar(self, stage: str, done: int, total: int | None, words: list[str]) -> None:
        long = LONG_BAR if terminal_width(sys.stderr) >= WIDE_TERMINAL else SHORT_BAR
        if self._bar is None:
            self._bar = _make_bar(f"  {stage:<{self._name_width}} ", long)
            self._bar.start()
        # the first of a stage may be there already, and tell nothing of how long the others take
        if total is None or not done:
            self._started_at = time.monotonic()
        elif time.monotonic() - self._started_at > ETA_DELAY_SECONDS and (left := self._bar.tasks[0].time_remaining):
            words.insert(1, f"{format_duration(left) if left >= 10 else f'{left:.0f} s'} left")
        room = terminal_width(sys.stderr) - RIGHT_MARGIN - self._name_width - long - 5
        # rich writes most control characters as they are
        first, *more = _fit_words([escape_controls(word, sys.stderr) for word in words], room)
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, words=first,
                         metrics=" " + "  ".join(more) if more else "")


def _fit_words(words: list[str], room: int) -> list[str]:
    """The first of these, cut where it must be, and those after it that stand beside it in so many columns."""
    shown = [truncate(words[0], room)]
    for word in words[1:]:
        room -= display_width(shown[-1]) + 2
        if display_width(word) > room:
            break
        shown.append(word)
    return shown


def _make_bar(label: str, long: int) -> Bar:
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


class JsonReporter:
    """One JSON object a line on stdout, for programs."""

    def __call__(self, event: Event) -> None:
        """Write one event."""
        print_result(json.dumps(as_json(event), ensure_ascii=False))

    def close(self) -> None:
        """Nothing is held open."""


def make_reporter(as_json: bool) -> LineReporter | JsonReporter:
    """What renders a run's events here."""
    if as_json:
        return JsonReporter()
    return LiveReporter() if is_interactive(sys.stderr) else LineReporter()
