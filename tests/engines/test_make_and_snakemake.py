"""Do make and Snakemake deliver the runs that `dbrun jobs` writes for them, and do nothing the second time?

Snakemake is any that is on PATH, such as that of an environment of its own (`pip install snakemake`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from fork_server import server_address

pytestmark = pytest.mark.slow
NAMES = ("rex", "mia", "bo")
WORDS = ("sks_dog", "subject.class_prompt=a photo of a dog", "train.steps=2", "train.batch_size=1", "prior.count=2",
         "prior.steps=2", "samples.steps=1", "samples.prompts=[a photo of sks dog]", "export=[peft]", "device=cpu",
         "threads=1", "--each", "rows.jsonl")
STAGES = ("load", "adapt", "generate-priors", "preprocess", "train", "export")
PROGRAMS = {"make": ("make", "-k", "-f", "jobs"), "snakemake": ("snakemake", "--cores", "1", "-k", "-s", "jobs")}

COMMAND = """#!{python} -IS
import json, os, socket, sys
request = json.dumps({{"words": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}).encode()
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
server.sendall(request)
with server.makefile("rb") as answer:
    process, code = answer.read(8), answer.read(8)
sys.exit(int.from_bytes(code, "big", signed=True))
"""
"""Program that has `dbrun` run by the server of the tests, which has its imports made."""


class Folder:
    """A folder with a table of runs, and dbrun as a command on PATH."""

    def __init__(self, home: Path) -> None:
        self.home = home
        rows = [{"name": name, "train.learning_rate": (number + 1) * 1e-4} for number, name in enumerate(NAMES)]
        (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (home / "bin").mkdir()
        (home / "bin" / "dbrun").write_text(COMMAND.format(python=sys.executable, address=server_address()))
        (home / "bin" / "dbrun").chmod(0o755)

    def call(self, *command: str) -> str:
        """Output of a command that succeeds."""
        environment = {**os.environ, "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}"}
        done = subprocess.run(command, cwd=self.home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def write_jobs(self, program: str) -> None:
        """Write what is missing as the file `jobs`."""
        (self.home / "jobs").write_text(self.call("dbrun", "jobs", *WORDS, "--as", program))

    def finished(self) -> Sequence[int]:
        """How often each of STAGES was computed so far."""
        counts: Counter[str] = Counter()
        for path in (self.home / ".dbrun" / "runs").glob("*/events.jsonl"):
            events = map(json.loads, path.read_text().splitlines())
            counts.update(event["stage"] for event in events if event["event"] == "stage_finished")
        return [counts[stage] for stage in STAGES]

    def delivered(self) -> set[str]:
        """Names of the runs that have weights in their folder."""
        outputs = self.home / "outputs"
        return {path.relative_to(outputs).parts[0] for path in outputs.rglob("*.safetensors")}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_run_is_delivered_and_shared_work_is_done_once(program: str, tmp_path: Path) -> None:
    command = PROGRAMS[program]
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    folder = Folder(tmp_path)
    folder.write_jobs(program)
    folder.call(*command)
    assert folder.delivered() == set(NAMES) and folder.finished() == [1, 1, 1, 1, 3, 3]
    # the same file again
    folder.call(*command)
    assert folder.finished() == [1, 1, 1, 1, 3, 3]
    # and a new one, which has the run whose results the user has removed
    shutil.rmtree(tmp_path / "outputs" / NAMES[1])
    folder.write_jobs(program)
    assert (tmp_path / "jobs").read_text().count("dbrun run") == 1
    folder.call(*command)
    assert folder.delivered() == set(NAMES) and folder.finished() == [1, 1, 1, 1, 3, 3]
