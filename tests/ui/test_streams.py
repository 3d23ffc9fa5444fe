"""Standard streams that are closed, full or of another encoding: no traceback, and nothing printed into other files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fork_server import start_dbrun

PROGRAM = r"""
import os, sys
from pathlib import Path
from dbrun.errors import DbrunError
from dbrun.ui.streams import guard_streams
from dbrun.ui.terminal import print_result, print_status
guard_streams()
opened = os.open("opened", os.O_CREAT | os.O_WRONLY)
try:
    print_result("result \u2026")
    print_result("result 2")
except DbrunError as error:
    print_status(f"told: {error.message}")
print_status("status \u2026")
os.write(opened, b"own")
"""


def run(folder: Path, redirection: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = f'"$0" -c "$1" {redirection}'
    return subprocess.run(["sh", "-c", command, sys.executable, PROGRAM], cwd=folder, text=True, capture_output=True,
                          env={**os.environ, **environment}, check=False)


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_nothing_is_printed_into_the_file_that_gets_a_closed_streams_number(redirection: str, tmp_path: Path) -> None:
    done = run(tmp_path, redirection)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert (tmp_path / "opened").read_bytes() == b"own"


def test_a_full_standard_output_is_told_once(tmp_path: Path) -> None:
    done = run(tmp_path, ">/dev/full")
    assert done.stderr == "told: standard output cannot be written: No space left on device\nstatus …\n"
    assert done.returncode == 0, "the interpreter's last flush must not fail"


def test_a_full_standard_error_loses_messages_only(tmp_path: Path) -> None:
    done = run(tmp_path, "2>/dev/full")
    assert (done.returncode, done.stdout) == (0, "result …\nresult 2\n")


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"},
                                         {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])
def test_what_the_encoding_lacks_is_written_as_an_escape(environment: dict[str, str], tmp_path: Path) -> None:
    done = run(tmp_path, "", **environment)
    assert (done.stdout, done.stderr) == ("result \\u2026\nresult 2\n", "status \\u2026\n")


@pytest.mark.parametrize(("words", "expected"), [(["--help"], 1), (["--version"], 1), (["doctor"], 1),
                                               (["plan", "--json"], 2)])
def test_a_command_whose_output_is_lost_fails_in_words(words: list[str], expected: int, tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full, (tmp_path / "err").open("wb") as err:
        code = start_dbrun(words, tmp_path, dict(os.environ), full.fileno(), err.fileno()).wait(60)
    text = (tmp_path / "err").read_text()
    assert (code, text.count("error: standard output cannot be written: No space left")) == (expected, 1), text
    assert "bug in dbrun" not in text
