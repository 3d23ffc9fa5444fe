"""Do several processes end in the bytes of one, however they were started and whatever became of one of them?"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from projects import Project, lay_out

SHARED = ("train.accumulation=2", "train.steps=12")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """What one process makes of it."""
    project = lay_out(tmp_path_factory.mktemp("alone"))
    project.dbrun("run", "tiny.yaml", *SHARED)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return lay_out(tmp_path)


def artifacts(project: Project) -> dict[str, set[str]]:
    """Stage -> the names of its objects' files with their digests: what was published, by contents."""
    from dbrun.store.store import Store

    store = Store(project.folder / ".dbrun")
    return {stage: {trace.digest for trace in store.traces.recent(stage, 9)}
            for stage in ("generate-priors", "preprocess", "train", "export")}


def launched(project: Project, *launcher: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *launcher, "-m", "dbrun", "run", "tiny.yaml", *SHARED],
                          cwd=project.folder, text=True, capture_output=True,
                          env={**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})})


def test_two_processes_publish_what_one_does(project: Project, alone: Project) -> None:
    project.dbrun("run", "tiny.yaml", *SHARED, "launch.processes=2")
    assert artifacts(project) == artifacts(alone) and project.exported() == alone.exported()


def test_a_fast_sum_is_another_result_for_each_number_of_processes(project: Project, alone: Project) -> None:
    project.dbrun("run", "tiny.yaml", *SHARED)
    words = ("tiny.yaml", *SHARED, "launch={processes: 2, reduce: fast}")
    plan = json.loads(project.dbrun("plan", *words, "--json").stdout)
    assert [row["name"] for row in plan["stages"] if row["status"] == "run"] == ["train", "export"], plan
    project.dbrun("run", *words)
    assert "nothing to do" in project.dbrun("run", *words).stderr
    # with two processes x + y is y + x: the bits are those of one process, and the keys differ
    assert project.exported() == alone.exported()


def test_torchrun_publishes_it_too_and_starts_nothing_twice(project: Project, alone: Project) -> None:
    done = launched(project, "torch.distributed.run", "--nproc-per-node", "2")
    assert done.returncode == 0, done.stderr
    assert artifacts(project) == artifacts(alone)
    assert done.stderr.count("2 processes share the work") == 3 and done.stdout.count("outputs/tiny") == 1
    again = launched(project, "torch.distributed.run", "--nproc-per-node", "2")
    assert again.returncode == 0 and "nothing to do" in again.stderr


def test_accelerate_publishes_it_too_or_says_that_it_starts_one_process(project: Project, alone: Project) -> None:
    single = launched(project, "accelerate.commands.launch", "--cpu", "--num_processes", "2")
    assert single.returncode != 0 and "started a single process" in single.stderr
    assert not (project.folder / ".dbrun").exists()
    done = launched(project, "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    assert done.returncode == 0, done.stderr
    assert artifacts(project) == artifacts(alone)


def test_two_launchers_that_see_one_store_are_as_two_machines(project: Project, alone: Project) -> None:
    def machine(rank: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank),
             "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", "29577", "-m", "dbrun", "run",
             "tiny.yaml", *SHARED, "launch={processes: 2, machines: 2}"], cwd=project.folder, text=True,
            stderr=subprocess.PIPE)

    both = [machine(rank) for rank in (0, 1)]
    said = [one.communicate(timeout=300)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert artifacts(project) == artifacts(alone)


@pytest.mark.parametrize(("whom", "how", "code"), [
    (1, signal.SIGKILL, 1), (0, signal.SIGKILL, -9), (0, signal.SIGINT, 130), (0, signal.SIGTERM, 143)])
def test_a_run_of_two_processes_survives_what_one_survives(project: Project, alone: Project, whom: int,
                                                           how: signal.Signals, code: int) -> None:
    words = ("tiny.yaml", *SHARED, "launch.processes=2")
    run = subprocess.Popen([sys.executable, "-m", "dbrun", "run", *words, "--json"], cwd=project.folder, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout
    members = []
    for line in run.stdout:
        if '"unit": "steps"' in line and '"done": 7,' in line:
            members = psutil.Process(run.pid).children()
            (members[0] if whom else run).send_signal(how)
            break
    _, err = run.communicate(timeout=120)
    assert run.returncode == code and (whom == 0 or "process 1 of 2 was killed" in err)
    assert members and not psutil.wait_procs(members, timeout=20)[1]
    resumed = project.dbrun("run", *words)
    assert "going on after step" in resumed.stderr
    assert artifacts(project) == artifacts(alone)
