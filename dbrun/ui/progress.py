"""Reporters of a run's events: a live bar on a terminal, plain lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.events import (
    Event,
    LibrariesLoading,
    Note,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    StageFinished,
    StageReused,
    StageStarted,
    TimeLeft,
)
from dbrun.naming import REPORT_FILE
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
from dbrun.ui.time_left import time_left_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import RenderableType
    from rich.progress import Progress as Bar

WIDE_TERMINAL, LONG_BAR, SHORT_BAR = 100, 24, 12
"""A terminal of at least WIDE_TERMINAL columns gets a bar of LONG_BAR columns, a narrower one of SHORT_BAR."""
QUIET_SECONDS = 15.0
"""Seconds between two lines of progress where there is no terminal; a shorter run does not say the time left."""
DRAWN_PER_SECOND = 4
"""How often a bar is drawn; rich's ten times a second take 1.5 % of a step of the embedded base."""
RIGHT_MARGIN = 4
"""Columns that a bar leaves free: a terminal writes ^C there, and a line that is wrapped cannot be taken back."""


def _progress_text(event: Progress) -> str:
    return f"{event.done}/{event.total} {event.unit}"


def _metrics(event: Progress) -> list[str]:
    # Only these two fit beside a bar; the run log has all.
    return [f"{name.replace('_', ' ')} {value:.3g}" for name, value in event.metrics.items()
            if name in ("loss", "learning_rate")]


class LineReporter:
    """Reporter that prints a line to stderr for each finished thing; for streams that are not a terminal."""

    def __init__(self) -> None:
        self._name_width = 0
        self._last_print = time.monotonic()
        self._progress_text = ""
        self._time_left: TimeLeft | None = None
        self._time_left_at = 0.0

    def __call__(self, event: Event) -> None:
        """Print one event."""
        match event:
            case RunStarted():
                self._time_left = None
                self._name_width = max((len(s) for s in event.stages), default=0)
                self._last_print = time.monotonic()
                print_status(f"{paint(event.name, 'bold', sys.stderr)}  {paint(event.recipe, 'dim', sys.stderr)}")
            case StageReused():
                self.print_row(event.stage, paint("cached", "dim", sys.stderr))
            case StageStarted():
                self._progress_text = ""
                self.on_stage_started(event)
            case LibrariesLoading():
                self.on_libraries_loading(event)
            case TimeLeft():
                is_first = self._time_left is None
                self._time_left, self._time_left_at = event, time.monotonic()
                self.on_time_left(event, is_first=is_first)
            case Progress():
                self._progress_text = _progress_text(event)
                self.on_progress(event)
            case Note():
                self.on_note(event)
            case StageFinished():
                self.on_stage_finished(event)
            case RunFinished():
                self.on_run_finished(event)
            case RunFailed():
                self.on_run_failed(event)

    def print_row(self, stage: str, text: str) -> None:
        """Print a line that begins with the stage's name; text that is wrapped stays right of the names."""
        print_status(f"  {stage:<{self._name_width}}  {text}", indent=self._name_width + 4)

    def on_stage_started(self, event: StageStarted) -> None:
        """Print that a stage begins, and why."""
        word = "resumes" if event.resumed else "runs"
        self.print_row(event.stage, f"{word}: {event.reason}")

    def on_note(self, event: Note) -> None:
        """Print a message; a warning in its colour."""
        style = "yellow" if event.level == "warning" else "dim"
        self.print_row(event.stage, paint(event.text, style, sys.stderr))

    def on_libraries_loading(self, event: LibrariesLoading) -> None:
        """Show that libraries are imported; nothing without a terminal, where nobody waits for the next line."""

    def on_progress(self, event: Progress) -> None:
        """Print the progress of a stage, at most once per QUIET_SECONDS."""
        # The last step is not printed: the line that the stage is done follows at once.
        if time.monotonic() - self._last_print < QUIET_SECONDS or event.done == event.total:
            return
        self._last_print = time.monotonic()
        self.print_row(event.stage, "  ".join([_progress_text(event), *_metrics(event), *self.time_left_texts()]))

    def on_time_left(self, event: TimeLeft, *, is_first: bool) -> None:
        """Print how long a run of more than QUIET_SECONDS will take, once; later lines of progress say it again."""
        if is_first and event.seconds > QUIET_SECONDS:
            self.print_row(event.stage, time_left_text(event, 0.0))

    def time_left_texts(self) -> list[str]:
        """The time left for the whole run as a text; none before anything is said about it."""
        if self._time_left is None:
            return []
        return [time_left_text(self._time_left, time.monotonic() - self._time_left_at)]

    def on_stage_finished(self, event: StageFinished) -> None:
        """Print that a stage is done, and its duration."""
        self.print_row(event.stage, f"{paint('done', 'green', sys.stderr)}  {format_duration(event.seconds)}")

    def on_run_failed(self, event: RunFailed) -> None:
        """Print in which stage the run ended early, and how far the stage had come."""
        # The error itself is printed by the verb, once, also for failures before the first stage.
        if event.stage is not None:
            word, style = ("stopped", "yellow") if event.exit_code > 128 else ("failed", "red")
            self.print_row(event.stage, f"{paint(word, style, sys.stderr)}  {self._progress_text}".rstrip())

    def close(self) -> None:
        """Release the screen; a reporter of lines holds nothing."""

    def on_run_finished(self, event: RunFinished) -> None:
        """Print how many stages ran, and where to look at the result."""
        work = "nothing to do, all stages cached"
        if event.ran:
            work = f"{event.ran} ran, {event.reused} cached  {format_duration(event.seconds)}"
        print_status(f"{paint('done', 'green', sys.stderr)}  {work}")
        if event.scores:
            from dbrun.ui.scores import scores_text

            print_status(f"scores  {scores_text(event.scores)}")
        if event.ran and event.outputs:
            # without a report, as where it failed, the pictures are the best there is
            shown = Path(event.outputs) / REPORT_FILE
            if not shown.is_file():
                shown = shown.with_name("before_after.png")
            print_status(f"look at {shown}")


class LiveReporter(LineReporter):
    """Reporter for a terminal: lines for what is finished, and below them a live bar for the running stage."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Bar | None = None
        self._shown: tuple[str, int, int | None, list[str]] | None = None
        self._reason = ""

    def on_stage_started(self, event: StageStarted) -> None:
        """Show a bar with the stage's reason, until there is progress to show."""
        self._reason = event.reason
        prefix = "resumes: " if event.resumed else ""
        self._update_bar(event.stage, 0, None, [prefix + event.reason])

    def on_libraries_loading(self, event: LibrariesLoading) -> None:
        """Say in the bar what takes so long before there is progress to show."""
        self._update_bar(event.stage, 0, None, ["loading libraries", self._reason])

    def on_progress(self, event: Progress) -> None:
        """Update the bar."""
        texts = [_progress_text(event)]
        if event.seconds_left is not None and event.done < event.total:
            # Whole seconds: tenths would flicker.
            left = event.seconds_left
            texts.append(f"{format_duration(left)} left" if left >= 10 else f"{left:.0f} s left")
        self._update_bar(event.stage, event.done, event.total, [*texts, *_metrics(event)])

    def on_time_left(self, event: TimeLeft, *, is_first: bool) -> None:
        """Nothing more: the line below the bar is drawn several times a second."""

    def on_stage_finished(self, event: StageFinished) -> None:
        """Replace the bar by a line: done, the duration, and the reason why the stage ran."""
        done, why = paint("done", "green", sys.stderr), paint(self._reason, "dim", sys.stderr)
        self.print_row(event.stage, f"{done}  {format_duration(event.seconds):>10}  {why}")

    def on_note(self, event: Note) -> None:
        """Print a message above the bar of the running stage."""
        shown = self._shown
        super().on_note(event)
        # The next progress may be minutes away, and the bar says how long the run will take.
        if shown is not None:
            self._update_bar(*shown)

    def print_row(self, stage: str, text: str) -> None:
        """Print a line above; the bar is removed first."""
        self.close()
        super().print_row(stage, text)

    def close(self) -> None:
        """Remove the bar from the screen."""
        self._shown = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _update_bar(self, stage: str, done: int, total: int | None, texts: list[str]) -> None:
        """Draw the bar. total: None while the length is unknown; texts: shown behind the bar as far as they fit."""
        self._shown = stage, done, total, texts
        bar_width = LONG_BAR if terminal_width(sys.stderr) >= WIDE_TERMINAL else SHORT_BAR
        if self._bar is None:
            self._bar = _make_bar(f"  {stage:<{self._name_width}} ", bar_width, self.time_left_texts)
            self._bar.start()
        room = terminal_width(sys.stderr) - RIGHT_MARGIN - self._name_width - bar_width - 5
        # rich writes most control characters as they are, and reasons hold words of the recipe.
        first, *rest = _fit_texts([escape_controls(text, sys.stderr) for text in texts], room)
        metrics = " " + "  ".join(rest) if rest else ""
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, words=first, metrics=metrics)


def _fit_texts(texts: list[str], room: int) -> list[str]:
    """The first text, truncated if necessary, and as many of the others as fit beside it into room columns."""
    shown = [truncate(texts[0], room)]
    for text in texts[1:]:
        room -= display_width(shown[-1]) + 2
        if display_width(text) > room:
            break
        shown.append(text)
    return shown


def _make_bar(label: str, bar_width: int, texts_below: Callable[[], list[str]]) -> Bar:
    """A bar of bar_width columns behind a label, and lines below it; it disappears when it stops."""
    # Imported here: rich takes time to import, and most commands show no bar.
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class BarWithLines(Bar):
        def get_renderables(self) -> Iterable[RenderableType]:
            """The bar, then the lines; called for each frame, so that times run down between two events."""
            yield from super().get_renderables()
            for text in texts_below():
                yield Text(truncate(f"  {text}", terminal_width(sys.stderr) - RIGHT_MARGIN), style="dim")

    def text_column(field: str, style: str = "none") -> TextColumn:
        return TextColumn(f"{{task.fields[{field}]}}", style=style, markup=False)

    line = BarColumn(bar_width=bar_width, complete_style="cyan", finished_style="green", pulse_style="cyan")
    bar = BarWithLines(TextColumn(label, markup=False), line, text_column("words"), text_column("metrics", "dim"),
                       console=Console(stderr=True), transient=True, refresh_per_second=DRAWN_PER_SECOND)
    bar.add_task(label, total=None, words="", metrics="")
    return bar


class JsonReporter:
    """Reporter that prints one JSON object a line to stdout, for programs.

    Until it is closed, stdout is its own, and what libraries print goes to stderr: Ray prints that it lost a node.
    """

    def __init__(self) -> None:
        self._stdout = sys.stdout
        self._libraries = redirect_stdout(sys.stderr)
        self._libraries.__enter__()

    def __call__(self, event: Event) -> None:
        """Print one event."""
        print_result(json.dumps(event.to_json(), ensure_ascii=False), stream=self._stdout)

    def close(self) -> None:
        """Give stdout back."""
        self._libraries.__exit__(None, None, None)


def make_reporter(as_json: bool) -> LineReporter | JsonReporter:
    """The reporter for a run's events: JSON lines if asked for, a live bar on a terminal, else plain lines."""
    if as_json:
        return JsonReporter()
    return LiveReporter() if is_interactive(sys.stderr) else LineReporter()
