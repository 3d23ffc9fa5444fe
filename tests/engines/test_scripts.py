"""Do make and sh run what is written for them, whatever is in the words?"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dbrun.api.request import RecipeRequest
from dbrun.engines.base import DEFAULT_OUTPUTS, Job, JobStatus
from dbrun.engines.scripts import FORMS
from dbrun.errors import UsageError

PROMPT = "subject.instance_prompt=it's a \"dog\" of $HOME & `x` \\ {y} #1 $$ ; |"


def job(name: str, *needs: str, words: tuple[str, ...] = (), gpus: int = 0, memory: int | None = None,
        seconds: float | None = None) -> Job:
    request = RecipeRequest(Path("my recipes/dog.yaml"), (f"name={name}", *words))
    return Job(name, ("train",), (name,), JobStatus.RUN, needs, gpus, memory, seconds, request, None, DEFAULT_OUTPUTS,
               "")


JOBS = [job("load"), job("a-1", "load", words=(PROMPT,)),
        job("b.2", "load", "a-1", gpus=1, memory=2**30, seconds=3600.0)]


def program(folder: Path, name: str, text: str) -> dict[str, str]:
    """The environment in which this program is found first."""
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": "/wrong"}


RECORDER = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word"; done > "$(mktemp word.XXXXXX)"
echo "$*" >> order
"""


def test_make_runs_each_command_as_it_is(tmp_path: Path) -> None:
    environment = program(tmp_path, "dbrun", RECORDER)
    (tmp_path / "jobs.mk").write_text(FORMS["make"](JOBS))
    subprocess.run(["make", "-s", "-j2", "-k", "-f", "jobs.mk"], cwd=tmp_path, env=environment, check=True)
    ran = {tuple(path.read_text().splitlines()) for path in tmp_path.glob("word.*")}
    assert ran == {one.command[1:] for one in JOBS}
    order = (tmp_path / "order").read_text().splitlines()
    assert ["name=load" in order[0], "name=a-1" in order[1], "name=b.2" in order[2]] == [True] * 3
    with pytest.raises(UsageError, match="line break"):
        FORMS["make"]([job("a", words=("subject.instance_prompt=two\nlines",))])


def test_the_slurm_script_hands_each_job_to_sbatch(tmp_path: Path) -> None:
    environment = program(tmp_path, "sbatch", '#!/bin/sh\ncat > "$(mktemp job.XXXXXX)"\necho "$*" >> options\n'
                                              'wc -l < options | tr -d " "\n')
    program(tmp_path, "dbrun", RECORDER)
    (tmp_path / "jobs.sh").write_text(FORMS["slurm"](JOBS))
    subprocess.run(["sh", "jobs.sh"], cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    options = (tmp_path / "options").read_text().splitlines()
    usual = "--parsable --job-name={} --requeue --signal=B:TERM@60 --kill-on-invalid-dep=yes"
    assert options == [usual.format("load"), f"{usual.format('a-1')} --dependency=afterok:1",
                       f"{usual.format('b.2')} --gpus=1 --time=120 --dependency=afterok:1:2"]
    for script in sorted(tmp_path.glob("job.*")):
        subprocess.run(["sh", str(script)], cwd=tmp_path, env=environment, check=True)
    ran = {tuple(path.read_text().splitlines()) for path in tmp_path.glob("word.*")}
    assert ran == {one.command[1:] for one in JOBS}


@pytest.mark.parametrize(("state", "is_requeued"), [("RUNNING", True), ("", True), ("COMPLETING", False)])
def test_a_slurm_job_hands_the_signal_on_and_is_queued_again(tmp_path: Path, state: str, is_requeued: bool) -> None:
    """Unless it was cancelled; where the queue does not answer, work is not given up."""
    environment = program(tmp_path, "dbrun", "#!/bin/sh\ntrap 'sleep 0.2; echo saved > saved; exit 143' TERM\n"
                                             "echo > started\nwhile :; do sleep 0.05; done\n")
    program(tmp_path, "scontrol", '#!/bin/sh\necho "$*" > requeued\n')
    program(tmp_path, "squeue", f"#!/bin/sh\necho {state}\n")
    program(tmp_path, "sbatch", "#!/bin/sh\ncat > job\necho 1\n")
    (tmp_path / "jobs.sh").write_text(FORMS["slurm"](JOBS[:1]))
    subprocess.run(["sh", "jobs.sh"], cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    started = subprocess.Popen(["sh", "job"], cwd=tmp_path, env={**environment, "SLURM_JOB_ID": "7"})
    while not (tmp_path / "started").exists():
        assert started.poll() is None
    started.terminate()
    assert started.wait(20) == 143
    assert (tmp_path / "saved").exists() and (tmp_path / "requeued").exists() == is_requeued
    if is_requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_a_snakefile_names_what_each_job_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: form.replace("%Y%m%d-%H%M%S", "20260102-030405"))
    emoji = job("c", "load", words=("subject.instance_prompt=a \U0001f436 of {x}\ny",))
    lines = FORMS["snakemake"]([*JOBS, emoji]).splitlines()
    marks = ".snakemake/dbrun/20260102-030405"
    assert f"    output: touch('{marks}/a-1')" in lines
    assert f"    input: ['{marks}/load', '{marks}/a-1']" in lines
    assert "    resources: gpu=1, runtime=120" in lines
    # Snakemake reads the words as Python does, and what is between braces as a format
    shell = ast.literal_eval(lines[-1].removeprefix("    shell: ")).format()
    assert shlex.split(shell) == list(emoji.command)


def test_the_program_of_the_guide_writes_a_workflow_of_argo() -> None:
    guide = (Path(__file__).parents[2] / ".github" / "docs" / "many.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", guide, re.DOTALL)
    assert program is not None
    graph = json.dumps({"jobs": [one.to_json() for one in JOBS]})
    done = subprocess.run([sys.executable, "-S", "-c", program[1], "dbrun:0.2", "work"], input=graph, check=True,
                          capture_output=True, text=True)
    first, *others = json.loads(done.stdout)["spec"]["templates"]
    assert [task["dependencies"] for task in first["dag"]["tasks"]] == [[], ["job-0"], ["job-0", "job-1"]]
    assert [one["container"]["command"] for one in others] == [list(one.command) for one in JOBS]
    assert [one["container"].get("resources") for one in others] == [None, None, {"limits": {"nvidia.com/gpu": 1}}]
