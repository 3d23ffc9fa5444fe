"""Does a cluster that loses a node half way deliver every run, do shared work once, and give the bytes of runs alone?

DBRUN_CLUSTER_RUNS sets the number of runs; a machine with few cores takes half a minute for each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from engines.slurm_cluster import missing_programs, slurm_cluster

from dbrun.api.request import RecipeRequest
from dbrun.engines import slurm
from dbrun.engines.base import DEFAULT_OUTPUTS, Job, JobReport, JobState, JobStatus
from dbrun.engines.run_job import Outcome

pytestmark = pytest.mark.slow
RUNS = int(os.environ.get("DBRUN_CLUSTER_RUNS", "60"))
ALONE = max(1, RUNS // 6)
"""Runs that are made alone, too."""
ROOT = Path(__file__).parents[2]
WORDS = (str(ROOT / "recipes" / "sks_dog.yaml"), "train.steps=4", "train.batch_size=1", "prior.count=6",
         "prior.steps=2", "samples.steps=2", "export=[peft]", "device=cpu", "threads=1")
SHARED = ("load", "adapt", "generate-priors", "preprocess")
Kill = Callable[[], None]


@contextmanager
def slurm_nodes(folder: Path) -> Iterator[tuple[dict[str, str], Kill]]:
    """A Slurm cluster of two nodes: its environment, and what kills one of them."""
    if missing_programs():
        pytest.skip(f"needs {', '.join(missing_programs())}")
    folder.mkdir()
    with slurm_cluster(folder) as cluster:
        yield cluster.environment, lambda: cluster.kill_node("n2")


@contextmanager
def ray_nodes(folder: Path) -> Iterator[tuple[dict[str, str], Kill]]:
    """A Ray cluster of two nodes."""
    if find_spec("ray") is None:
        pytest.skip("needs the package ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8})
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=10**8)
        cluster.wait_for_nodes()
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        yield environment, lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()


def weights(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize(("engine", "nodes"), [("slurm", slurm_nodes), ("ray", ray_nodes)])
def test_a_lost_node_loses_nothing(engine: str, nodes: Callable[..., Iterator[tuple[dict[str, str], Kill]]],
                                   tmp_path: Path) -> None:
    rows = [{"name": f"r{number}", "train.learning_rate": (number + 1) * 1e-4} for number in range(RUNS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = (sys.executable, "-m", "dbrun", "submit", *WORDS, "--each", "rows.jsonl", "--engine", engine, "--json")
    done: set[str] = set()
    is_killed, last, running = False, {}, set()
    with nodes(tmp_path / "cluster") as (environment, kill):
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            last = json.loads(line)
            if last["event"] != "job_changed":
                continue
            running.discard(last["title"])
            if last["state"] == "done" and last["title"].startswith("r"):
                done.add(last["title"])
            elif last["state"] == "running":
                running.add(last["title"])
            # both nodes have a job
            if not is_killed and len(done) >= RUNS // 3 and len(running) > 1:
                is_killed = True
                kill()
        assert process.wait() == 0, last
    assert is_killed and last["event"] == "jobs_finished"
    assert {job["state"] for job in last["jobs"]} == {"done"} and len(last["jobs"]) < RUNS + len(SHARED) + 1
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {str(row["name"]) for row in rows}
    finished: Counter[str] = Counter()
    for path in (tmp_path / ".dbrun" / "runs").glob("*/events.jsonl"):
        events = map(json.loads, path.read_text().splitlines())
        finished.update(event["stage"] for event in events if event["event"] == "stage_finished")
    assert [finished[stage] for stage in SHARED] == [1] * len(SHARED)
    for row in rows[::RUNS // ALONE][:ALONE]:
        name = str(row["name"])
        subprocess.run((sys.executable, "-m", "dbrun", "run", *WORDS, f"name={name}",
                        f"train.learning_rate={row['train.learning_rate']}", "--store", "alone", "--outputs",
                        "outputs-alone"), cwd=tmp_path, check=True, capture_output=True)
        assert weights(tmp_path / "outputs" / name) == weights(tmp_path / "outputs-alone" / name) != {}


STAND_IN = """#!/bin/sh
for word; do name=${word#name=}; done
echo "$name" >> began
case $name in fails*) echo 'error: no loss' >&2; exit 1;; esac
if [ "$name" = cancelled ]; then sleep 300; fi
sleep 3
echo "$name" >> ended
"""


def light_job(name: str, *needs: str) -> Job:
    request = RecipeRequest(Path("dog.yaml"), (f"name={name}",))
    return Job(name, ("train",), (name,), JobStatus.RUN, needs, 0, None, None, request, None, DEFAULT_OUTPUTS, "base")


@pytest.mark.skipif(bool(missing_programs()), reason="needs Slurm")
def test_slurm_runs_many_jobs_of_a_stand_in_for_dbrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node lost half way, a failure and a cancel, without the seconds that a start of dbrun takes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stand-in").write_text(STAND_IN)
    (tmp_path / "stand-in").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "stand-in"))
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_QUERIES", 1.0)
    names = [f"r{number}" for number in range(RUNS)]
    jobs = [light_job("load"), light_job("priors", "load"), light_job("fails"), light_job("after", "fails", "load"),
            *(light_job(name, "load", "priors") for name in names)]
    last = light_job("cancelled", *names)
    (tmp_path / "cluster").mkdir()
    with slurm_cluster(tmp_path / "cluster") as cluster:
        monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        engine = slurm.SlurmEngine(tmp_path / "store")
        engine.check()
        for one in (*jobs, last):
            engine.submit(one)
        is_killed, reports = False, engine.poll(1.0)
        while not all(reports[one.id].state.is_final for one in jobs):
            done = [name for name in names if reports[name].state is JobState.DONE]
            if len(done) >= RUNS // 3 and not is_killed and cluster.runs_job("n2"):
                cluster.kill_node("n2")
                is_killed = True
            reports = engine.poll(1.0)
        # a second command finds the job that still runs
        again = slurm.SlurmEngine(tmp_path / "store")
        again.check()
        again.submit(last)
        while again.poll(1.0)["cancelled"].state is not JobState.RUNNING:
            pass
        again.cancel()
        while not (stopped := again.poll(1.0)["cancelled"]).state.is_final:
            pass
    assert is_killed and {reports[name].state for name in ("load", "priors", *names)} == {JobState.DONE}
    assert (reports["fails"].state, reports["fails"].text) == (JobState.FAILED, "no loss")
    assert reports["after"] == JobReport(JobState.SKIPPED, "it needs fails")
    assert stopped.state is JobState.STOPPED
    ended = Counter((tmp_path / "ended").read_text().split())
    assert ended == Counter(["load", "priors", *names])
    began = Counter((tmp_path / "began").read_text().split())
    # what ran on the lost node began again, and nothing else did
    assert began["cancelled"] == 1 and 1 <= sum(count - 1 for count in began.values()) <= 2


@pytest.mark.skipif(bool(missing_programs()), reason="needs Slurm")
def test_slurm_ends_a_job_by_two_sigterm(tmp_path: Path) -> None:
    """Why two of them within a second are one stop in `dbrun.run.signals`, and that a stopped job is STOPPED."""
    (tmp_path / "cluster").mkdir()
    with slurm_cluster(tmp_path / "cluster") as cluster:
        (tmp_path / "count.py").write_text(
            "import signal, time\nheard = []\nsignal.signal(signal.SIGTERM, lambda *_: heard.append(time.time()))\n"
            "print('ready', flush=True)\nwhile not heard: time.sleep(0.01)\ntime.sleep(3)\n"
            "print(len(heard), heard[-1] - heard[0] < 1, flush=True)\n")
        script = slurm.batch_text((sys.executable, "-S", "count.py"))
        submitted = subprocess.run(("sbatch", "--parsable", "--output=log"), input=script, text=True, check=True,
                                   cwd=tmp_path, env=cluster.environment, capture_output=True)
        log = tmp_path / "log"
        cluster.wait_for(lambda: log.exists() and "ready" in log.read_text(), "the job")
        subprocess.run(("scancel", submitted.stdout.strip()), check=True, env=cluster.environment)
        cluster.wait_for(lambda: "True" in log.read_text(), "its end")
        assert log.read_text().splitlines()[-1] == "2 True"


def light_task(call: dict[str, Any], board: Any, *needed: Outcome) -> Outcome:
    """The task of the engine, with a stand-in for the run of dbrun; runs on a node."""
    import time

    from dbrun.engines import ray as on_node

    def stand_in(call: dict[str, Any], stop: threading.Event, tell: Callable[[str], None]) -> Outcome:
        name = call["id"]
        with Path("began").open("a") as began:
            began.write(f"{name}\n")
        if name == "fails":
            return {"ended": 1, "text": "no loss", "fix": None}
        if name == "cancelled":
            stop.wait(300)
            return {"ended": 130, "text": "interrupted", "fix": None}
        time.sleep(1)
        with Path("ended").open("a") as ended:
            ended.write(f"{name}\n")
        return {"ended": 0, "text": "", "fix": None}

    on_node.run_job = stand_in
    return on_node.run_as_task(call, board, *needed)


def test_ray_runs_many_jobs_of_a_stand_in_for_dbrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on Ray; what Ctrl-C cancels hears of it in its main thread."""
    pytest.importorskip("ray")
    from ray import cloudpickle

    from dbrun.engines import ray as engine_module

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine_module, "run_as_task", light_task)
    names = [f"r{number}" for number in range(RUNS)]
    jobs = [light_job("load"), light_job("priors", "load"), light_job("fails"), light_job("after", "fails", "load"),
            *(light_job(name, "load", "priors") for name in names)]
    last = light_job("cancelled", *names)
    with ray_nodes(tmp_path) as (environment, kill):
        monkeypatch.setenv("RAY_ADDRESS", environment["RAY_ADDRESS"])
        engine = engine_module.RayEngine(tmp_path / "store")
        engine.check()
        for one in (*jobs, last):
            engine.submit(one)
        is_killed, reports = False, engine.poll(1.0)
        while not all(reports[one.id].state.is_final for one in jobs):
            done = [name for name in names if reports[name].state is JobState.DONE]
            if len(done) >= RUNS // 3 and not is_killed:
                kill()
                is_killed = True
            reports = engine.poll(1.0)
        while engine.poll(1.0)["cancelled"].state is not JobState.RUNNING:
            pass
        engine.cancel()
        while not (stopped := engine.poll(1.0)["cancelled"]).state.is_final:
            pass
        engine.close()
    assert is_killed and {reports[name].state for name in ("load", "priors", *names)} == {JobState.DONE}
    assert (reports["fails"].state, reports["fails"].text) == (JobState.FAILED, "no loss")
    assert reports["after"] == JobReport(JobState.SKIPPED, "it needs fails")
    assert stopped.state is JobState.STOPPED
    assert set((tmp_path / "ended").read_text().split()) == {"load", "priors", *names}
    began = Counter((tmp_path / "began").read_text().split())
    assert began["cancelled"] == 1 and sum(count - 1 for count in began.values()) <= 2
