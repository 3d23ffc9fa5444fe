"""The fork server of the tests: what a command that is forked leaves is what a process of its own leaves."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import fork_server
import pytest
from fork_server import can_fork, run_dbrun, start_dbrun
from projects import Project, lay_out

TIMES = re.compile(r"\bnow\b|\b\d+(\.\d+)? ?(ms|s|min|MiB|GiB|KiB)\b|\d{8}-\d{6}\.\d+")
LIGHT = (("plan", "tiny.yaml", "train.steps=9", "--exit-code"), ("run", "tiny.yaml", "train.steps=no"), ("nothing",))
"""Commands that load no heavy library."""
ALL = (("run", "tiny.yaml"), ("run", "tiny.yaml"), *LIGHT, ("stage", "train"), ("show", "outputs/gone"), ("runs",),
       ("--help",), ("validate", "tiny.yaml", "--json"))


SAID_BY_IMPORTS = ("Failed to load CPU gemm_4bit_forward", "[transformers]")
"""How lines begin that libraries write while they are imported, in the server before there is any command."""


def left(project: Project) -> dict[str, object]:
    """What commands left: names and contents of delivered files and of the store's objects, modes included."""
    found: dict[str, object] = dict(project.exported())
    for path in sorted((project.folder / ".dbrun" / "objects").rglob("*")):
        found[str(path.relative_to(project.folder))] = path.stat().st_mode
    return found


def told(done: subprocess.CompletedProcess[str], folder: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr without what differs from run to run: times, sizes, counts of a slow stage."""
    lines = [line for line in done.stderr.splitlines()
             if not line.startswith(SAID_BY_IMPORTS) and not re.match(r" *[a-z-]+ +\d+/\d+ ", line)]
    out, err = (TIMES.sub("…", re.sub(r" +", " ", text.replace(str(folder), "HERE")))
                for text in (done.stdout, "\n".join(lines)))
    return done.returncode, out, err


@pytest.mark.parametrize("commands", [LIGHT, pytest.param(ALL, marks=pytest.mark.slow)], ids=["light", "all"])
def test_it_is_what_a_process_of_its_own_would_be(tmp_path: Path, commands: tuple[tuple[str, ...], ...]) -> None:
    forked, real = lay_out(tmp_path / "forked"), lay_out(tmp_path / "real")
    for words in commands:
        one = told(forked.dbrun(*words, check=None), forked.folder)
        other = told(real.dbrun(*words, check=None, real=True), real.folder)
        assert one == other, words
    assert left(forked) == left(real)


def test_a_signal_reaches_it_and_its_end_is_told(tmp_path: Path) -> None:
    project = lay_out(tmp_path)
    for signum, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        lines = project.folder / f"{signum}.jsonl"
        with lines.open("wb") as out:
            forked = start_dbrun(["run", "tiny.yaml", "train.steps=100000", "--json"], project.folder, os.environ,
                                 out.fileno())
        deadline = time.monotonic() + 120
        while '"unit": "steps"' not in lines.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        forked.send_signal(signum)
        assert forked.wait(60) == code


def test_where_an_import_may_have_read_the_environment_a_process_of_its_own_is_started(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: object) -> None:
        raise AssertionError("forked")

    monkeypatch.setattr(fork_server, "start_dbrun", fail)
    elsewhere = {**fork_server.ENVIRONMENT, "HF_HOME": "elsewhere"}
    assert run_dbrun(["--version"], cwd=tmp_path, env=elsewhere).returncode == 0
    with pytest.raises(AssertionError, match="forked"):
        run_dbrun(["--version"], cwd=tmp_path, env={**fork_server.ENVIRONMENT, "HF_TOKEN": "secret", "COLUMNS": "80"})
    assert not can_fork({name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"})
