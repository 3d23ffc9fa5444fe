"""Does a run look right on a terminal, in a pipe, and to a program?"""

import io
import json
import re
import sys
from contextlib import closing
from pathlib import Path

import pytest

from dbrun.events import (
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
from dbrun.ui.progress import JsonReporter, LineReporter, LiveReporter, make_reporter

RUN = [
    RunStarted("recipes/x.yaml", "x", "1", ("load", "generate-priors")),
    StageReused("load", "ab" * 32),
    StageStarted("generate-priors", "prior.count 40 → 60", resumed=True),
    Progress("generate-priors", 3, 60, "pictures", {"loss": 0.25}),
    Note("generate-priors", "a word", "warning"),
    Progress("generate-priors", 60, 60, "pictures"),
    StageFinished("generate-priors", "cd" * 32, 75.0),
    RunFinished(1, 1, 76.0, "outputs/x"),
]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_in_a_pipe_every_line_is_whole_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    watch = LineReporter()
    for event in RUN:
        watch(event)
    said = capsys.readouterr()
    assert said.out == "" and "\x1b" not in said.err and "\r" not in said.err
    assert said.err.splitlines() == [
        "x  recipes/x.yaml", "  load             cached", "  generate-priors  resumes: prior.count 40 → 60",
        "  generate-priors  a word", "  generate-priors  done  1 min 15 s", "done  1 ran, 1 cached  1 min 16 s",
        "look at outputs/x/before_after.png"]


def test_the_report_is_what_to_look_at(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "report.html").touch()
    LineReporter()(RunFinished(1, 1, 76.0, str(tmp_path)))
    assert capsys.readouterr().err.splitlines()[-1] == f"look at {tmp_path}/report.html"


def test_without_a_terminal_a_long_stage_speaks_now_and_then(capsys: pytest.CaptureFixture[str],
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    watch = LineReporter()
    for done in range(1, 40):
        now[0] += 1.0
        watch(Progress("train", done, 100, "steps", {"loss": 0.5, "learning_rate": 1e-4}))
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in said] == ["15/100", "30/100"]
    assert "loss 0.5" in said[0] and "learning rate 0.0001" in said[0]


def test_without_a_terminal_the_time_left_is_said_once_and_beside_progress(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    watch = LineReporter()
    watch(RUN[0])
    for left in (600.0, 590.0, 580.0):
        watch(TimeLeft("train", left, left))
        now[0] += 10.0
        watch(Progress("train", 3, 9, "steps"))
    said = capsys.readouterr().err.splitlines()[1:]
    # the last event said 580 s, and came 10 s ago
    assert [line.split("whole run: ")[-1] for line in said] == ["about 10 min left", "about 10 min left"]
    assert "3/9 steps" in said[1]
    short = LineReporter()
    short(TimeLeft("train", 12.0, 12.0))
    assert capsys.readouterr().err == ""


def test_on_a_terminal_a_bar_comes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    watch = make_reporter(as_json=False)
    assert isinstance(watch, LiveReporter)
    for event in (*RUN[:3], LibrariesLoading("generate-priors")):
        watch(event)
    assert watch._bar is not None
    watch._bar.refresh()
    assert "loading libraries" in screen.getvalue()
    watch(RUN[3])
    watch(RUN[4])
    assert watch._bar is not None, "a note stands above the bar"
    for event in RUN[5:]:
        watch(event)
    # after its stage a note brings no bar back
    watch(RUN[4])
    assert watch._bar is None
    watch.close()
    text = screen.getvalue()
    assert watch._bar is None and "3/60 pictures" in text and "1 min 15 s" in text
    assert "prior.count 40 → 60" in text


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_a_bar_leaves_room_for_what_a_terminal_writes_at_ctrl_c(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    for name, value in (("TERM", "xterm"), ("COLUMNS", str(columns))):
        monkeypatch.setenv(name, value)
    watch = LiveReporter()
    watch(RUN[0])
    watch(TimeLeft("generate-priors", 190.0, 5.0, ("train",), "train"))
    watch(StageStarted("generate-priors", f"{'a reason that is long ' * 9}犬", resumed=True))
    watch._bar.refresh()
    for done in range(40):
        watch(Progress("generate-priors", done, 300, "pictures", {"loss": 0.25, "learning_rate": 1e-4}, 9.6))
        watch._bar.refresh()
    watch.close()
    frames = [re.sub(r"\x1b\[[0-9?;]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]", screen.getvalue())]
    bars = [line.rstrip() for line in frames if "generate-priors" in line and "━" in line]
    assert max(map(len, bars)) <= columns - 4
    assert all(re.match(r"  generate-priors  [━╸╺]", line) for line in bars), "the name and the bar keep their room"
    assert any("…" in line for line in bars) and "39/300 pictures" in bars[-1]
    assert "  10 s left  loss 0.25  learning rate 0.0001" in bars[-1] or columns < 160
    totals = [line.rstrip() for line in frames if line.startswith("  whole run: ")]
    assert totals and max(map(len, totals)) <= columns - 4
    assert "at least 3 min left" in totals[-1]


@pytest.mark.parametrize(("code", "word"), [(1, "failed"), (130, "stopped"), (143, "stopped")])
def test_the_stage_that_a_run_ended_in_says_how_far_it_was(capsys: pytest.CaptureFixture[str], code: int,
                                                           word: str) -> None:
    watch = LineReporter()
    for event in (*RUN[:4], RunFailed("generate-priors", "no", None, code)):
        watch(event)
    assert capsys.readouterr().err.splitlines()[-1] == f"  generate-priors  {word}  3/60 pictures"
    watch(RunFailed(None, "before any stage", None, code))
    assert capsys.readouterr().err == ""


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    watch = LineReporter()
    watch(RUN[1])
    assert "\x1b[2m" in screen.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    screen.truncate(0)
    watch(RUN[1])
    assert "\x1b[" not in screen.getvalue()


def test_for_a_program_every_event_is_a_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(JsonReporter()) as watch:
        for event in RUN:
            print("a library says something")
            watch(event)
    print("stdout is given back")
    *said, last = capsys.readouterr().out.splitlines()
    assert last == "stdout is given back"
    lines = [json.loads(line) for line in said]
    assert [m["event"] for m in lines] == [
        "run_started", "stage_reused", "stage_started", "progress", "note", "progress", "stage_finished",
        "run_finished"]
    assert all(line.pop("format_version") == 1 and line.pop("time") > 1e9 for line in lines)
    assert lines[3] == {"event": "progress", "stage": "generate-priors", "done": 3, "total": 60, "unit": "pictures",
                        "metrics": {"loss": 0.25}, "seconds_left": None}
