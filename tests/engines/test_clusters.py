"""Does a cluster that loses a node half way deliver every run, do shared work once, and give the bytes of runs alone?

DBRUN_CLUSTER_RUNS sets the number of runs. A few show the same as many, and each takes up to half a minute where cores
are few; before a release run it with 60.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from engines.ray_cluster import ray_cluster
from engines.slurm_cluster import missing_programs, slurm_cluster

from dbrun.engines import slurm

pytestmark = pytest.mark.slow
RUNS = int(os.environ.get("DBRUN_CLUSTER_RUNS", "6"))
ALONE = max(1, RUNS // 6)
"""Runs that are made alone, too."""
ROOT = Path(__file__).parents[2]
WORDS = (str(ROOT / "recipes" / "sks_dog.yaml"), "subject.class_prompt=a photo of a dog", "train.steps=4",
         "train.batch_size=1", "prior.count=2", "prior.steps=2", "samples.steps=1",
         "samples.prompts=[a photo of sks dog]", "export=[peft]", "device=cpu", "threads=1")
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
    """A Ray cluster of two nodes, likewise."""
    if find_spec("ray") is None:
        pytest.skip("needs the package ray")
    with ray_cluster() as found:
        yield found


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
