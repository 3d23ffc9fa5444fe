"""Does a message fit the screen that it is read on, and stay whole where a program reads it?"""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import sys
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest
from rich.cells import cell_len

from dbrun.recipe.new import starter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = starter("dog").replace("instance_prompt:", "instance_promt:").replace("targets: all", "targets: al")
    (tmp_path / "dog.yaml").write_text(text.replace("learning_rate:", "x" * 30 + ": 1, learning_rate:"))
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
    done = subprocess.run([sys.executable, "-m", "dbrun", "validate", "dog.yaml"], cwd=folder, capture_output=True,
                          text=True)
    heads = [line for line in done.stderr.splitlines() if "dog.yaml:" in line]
    assert len(heads) == 3 and any("did you mean 'all'" in line or "a list of patterns" in line for line in heads)
    excerpts = [line for line in done.stderr.splitlines() if " | " in line]
    assert len(excerpts) == 6 and max(map(cell_len, excerpts)) <= 80
