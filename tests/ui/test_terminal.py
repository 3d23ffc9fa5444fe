"""Does a message fit the screen that it is read on, and stay whole where a program reads it?"""

from __future__ import annotations

import json
import os
import pty
import re
import struct
import subprocess
import sys
import time
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest
from fork_server import run_dbrun
from PIL import Image
from representatives import cases
from rich.cells import cell_len

from dbrun.recipe.new import StarterRequest, starter_recipe
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import format_ago, paint, print_result, print_status, wrap_text

NUMBER = re.compile(r"\d+(\.\d+)?")
"""What may differ between two calls: the room that is free, for one."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = starter_recipe(StarterRequest("dog")).replace("instance_prompt:", "instance_promt:")
    text = text.replace("targets: all", "targets: al")
    (tmp_path / "dog.yaml").write_text(text.replace("  learning_rate:", "  " + "x" * 30 + ": 1\n  learning_rate:"))
    return tmp_path


def on_a_screen(folder: Path, columns: int, *words: str) -> list[str]:
    """The lines that `dbrun WORDS` writes on a terminal of so many columns, without colours."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen([sys.executable, "-m", "dbrun", *words], cwd=folder, stdin=theirs, stdout=theirs,
                               stderr=theirs, env={**env, "NO_COLOR": "1", "TERM": "xterm"})
    os.close(theirs)
    written = b""
    while True:
        try:
            written += os.read(ours, 65536)
        except OSError:
            break
    process.wait()
    os.close(ours)
    return written.decode().replace("\r", "").splitlines()


@pytest.mark.parametrize("columns", [50, 80, 160])
def test_what_is_wrong_with_a_recipe_fits_the_screen(folder: Path, columns: int) -> None:
    lines = on_a_screen(folder, columns, "validate", "dog.yaml")
    assert max(map(cell_len, lines)) <= columns
    said = " ".join(line.strip() for line in lines)
    assert "unknown key; did you mean 'instance_prompt'?" in said and "^" in said
    again = on_a_screen(folder, 100, "validate", "dog.yaml")
    assert max(map(cell_len, again)) <= 100


def test_a_message_that_is_not_for_a_screen_has_a_problem_a_line(folder: Path) -> None:
    done = run_dbrun(["validate", "dog.yaml"], cwd=folder)
    heads = [line for line in done.stderr.splitlines() if "dog.yaml:" in line]
    assert len(heads) == 3 and any("did you mean 'all'" in line or "a list of patterns" in line for line in heads)
    excerpts = [line for line in done.stderr.splitlines() if " | " in line]
    assert len(excerpts) == 6 and max(map(cell_len, excerpts)) <= 80


@pytest.mark.parametrize("words", cases([
    ["plan", "dog.yaml", "adapt.denoiser.rank=100", "adapt.denoiser.targets=linear"], ["--help"],
    ["plan", "dog.yaml"], ["plan", "dog.yaml", "--pictures"], ["status", "dog.yaml"], ["explain", "train", "dog.yaml"],
    ["graph", "dog.yaml"], ["doctor"], ["du"], ["run", "--help"]], 0, 1), ids=" ".join)
def test_what_is_asked_for_is_folded_between_words(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "dog.yaml").write_text(starter_recipe(StarterRequest("dog")))
    narrow, wide = (on_a_screen(tmp_path, columns, *words) for columns in (72, 200))
    assert max(map(cell_len, narrow)) <= 72 or words == ["doctor"], max(narrow, key=cell_len)
    (short, long) = (NUMBER.sub("0", " ".join(lines)).split() for lines in (narrow, wide))
    assert short == long or "--help" in words, "no word is cut"


def test_numbers_stay_with_their_units_and_colours_take_no_room() -> None:
    assert wrap_text("2 ran, 4 cached, 6.8 s", 20, 20) == ["2 ran, 4 cached,", "6.8 s"]
    assert wrap_text("\x1b[2mab cd\x1b[0m", 5, 5) == ["\x1b[2mab cd\x1b[0m"]
    assert wrap_text("犬犬 犬犬 x", 6, 9) == ["犬犬", "犬犬 x"] and wrap_text("犬" * 5, 4, 6) == ["犬犬", "犬犬犬"]
    assert wrap_text("/a/path/that/is/longer then", 9, 9) == ["/a/path/that/is/longer", "then"]


HOSTILE = "a\x1b[2Jb\rc\x9b31md\x07e\x7ff\udc9bg\x1b[31mh\u202ei\u2067j\u2069"
"""Clears the screen, goes back to the start of the line, turns red, rings, holds a byte that is no character, and turns
the order of letters around."""
WRITTEN_OUT = r"a\u001b[2Jb\u000dc\u009b31md\u0007e\u007ff\udc9bg\u001b[31mh\u202ei\u2067j\u2069"


def test_control_characters_are_written_out_wherever_text_goes(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(f"{HOSTILE}\tand\nmore")
    print_status(HOSTILE)
    assert capsys.readouterr() == (f"{WRITTEN_OUT}\tand\nmore\n", f"{WRITTEN_OUT}\n")
    assert align_rows([[HOSTILE, "x"], ["short", "y"]]).splitlines() == [
        f"{WRITTEN_OUT}  x", f"{'short':<{len(WRITTEN_OUT)}}  y"]


def test_json_with_control_characters_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(json.dumps({"name": HOSTILE}, ensure_ascii=False))
    told = capsys.readouterr().out
    assert told.isascii() and json.loads(told) == {"name": HOSTILE}


def test_on_a_terminal_only_our_own_colours_stay(monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    print_result(paint("HIT", "green", sys.stdout) + "\x1b[2J\x1b[5m")
    assert capsys.readouterr().out == "\x1b[32mHIT\x1b[0m\\u001b[2J\\u001b[5m\n"
    monkeypatch.setenv("NO_COLOR", "1")
    print_result(paint("HIT", "green", sys.stdout) + "\x1b[32m")
    assert capsys.readouterr().out == "HIT\\u001b[32m\n"


def test_a_file_name_with_control_characters_moves_no_cursor(tmp_path: Path) -> None:
    (tmp_path / "a\rb\x1b[2J.yaml").write_text("schema: dbrun/v1\n")
    done = subprocess.run([sys.executable, "-m", "dbrun", "validate", "a\rb\x1b[2J.yaml"], cwd=tmp_path,
                          capture_output=True)
    told = done.stdout + done.stderr
    assert done.returncode == 2 and rb"a\u000db\u001b[2J.yaml" in told and not set(told) & {0x0d, 0x1b}


@pytest.mark.parametrize(("past", "told"), [(5, "just now"), (60, "1 min ago"), (7300, "2 h ago"),
                                            (3 * 86400 + 5, "3 d ago")])
def test_a_time_is_told_by_how_long_it_is_past(past: float, told: str) -> None:
    assert format_ago(time.time() - past) == told


@pytest.mark.parametrize("columns", [72, 80, 160])
def test_pictures_with_long_names_and_prompts_have_a_line_each(tmp_path: Path, columns: int) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        name = tmp_path / "pictures" / f"{'a long name of a camera ' * 3}犬 {number:04d}.png"
        Image.new("RGB", (64, 64), (number, 9, 9)).save(name)
        name.with_suffix(".txt").write_text("a photo of sks dog, " + "犬" * 60)
    text = starter_recipe(StarterRequest("dog")).replace("images: embedded:sks_dog", "images: pictures")
    (tmp_path / "dog.yaml").write_text(text)
    lines = on_a_screen(tmp_path, columns, "plan", "dog.yaml", "--pictures")
    rows = [line for line in lines if line.startswith("a long")]
    assert max(map(cell_len, lines)) <= columns and len(rows) == 3
    assert all(f"{number:04d}.png  64×64" in row for number, row in enumerate(rows)), "names differ at their ends"
    assert len({cell_len(row.partition("64×64")[0]) for row in rows}) == 1
