"""Is it seen that a verb is at work, where someone watches and it takes a while?"""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path

import pytest

from dbrun.cli.store import verify_all
from dbrun.store.verify import VerifyReport
from dbrun.ui import waiting as module
from dbrun.ui.waiting import show_elapsed

ERASED = "\x1b[1A\x1b[2K"
"""What rich ends a line with that is to disappear: up to it again, and clear it."""


class Screen(io.StringIO):
    """A stream that says it is a terminal, or that it is none."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def shown(monkeypatch: pytest.MonkeyPatch, seconds: float, *, terminal: bool = True, silent: float = 0.05) -> str:
    screen = Screen(terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(module, "DELAY_SECONDS", silent)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with show_elapsed("reading"):
        time.sleep(seconds)
    return screen.getvalue()


def test_what_takes_a_while_is_shown_with_its_time_and_taken_off_again(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, 0.3)
    assert re.search(r"reading  0\.\d s", text) and text.endswith(ERASED)


def test_what_is_quick_or_goes_into_a_file_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, 0.01, silent=30) == ""
    assert shown(monkeypatch, 0.3, terminal=False) == ""


def test_the_line_is_taken_off_before_an_error_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(module, "DELAY_SECONDS", 0.01)
    with pytest.raises(KeyboardInterrupt), show_elapsed("reading"):
        time.sleep(0.2)
        raise KeyboardInterrupt
    assert screen.getvalue().endswith(ERASED)


def test_verify_and_run_show_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dbrun.api.request import RecipeRequest
    from dbrun.cli.run import read_request
    from dbrun.recipe.new import StarterRequest, starter_recipe

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen(True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(module, "DELAY_SECONDS", 0)
    monkeypatch.setattr("dbrun.api.request.resolve_sources", lambda *words: time.sleep(0.2))
    monkeypatch.setattr("dbrun.store.verify.verify_store", lambda store: time.sleep(0.2) or VerifyReport({}, ()))
    Path("dog.yaml").write_text(starter_recipe(StarterRequest("dog")))
    read_request(RecipeRequest(Path("dog.yaml")), decode=True)
    assert "reading the pictures and the base" in screen.getvalue()
    verify_all(as_json=True)
    assert "reading every byte in the store" in screen.getvalue()
