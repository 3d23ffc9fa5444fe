"""Do the engines bring many jobs through Slurm and Ray, with a lost node, a failure and a cancel?

The jobs are stand-ins for dbrun, whose start takes seconds of a CPU; `test_clusters.py` runs dbrun itself.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from engines.ray_cluster import ray_cluster
from engines.slurm_cluster import missing_programs, slurm_cluster

from dbrun.api.request import RecipeRequest
from dbrun.engines import ray as ray_module
from dbrun.engines import slurm
from dbrun.engines.base import DEFAULT_OUTPUTS, Engine, Job, JobReport, JobState, JobStatus
from dbrun.engines.ray import RayEngine
from dbrun.engines.run_job import Outcome
from dbrun.engines.slurm import SlurmEngine

pytestmark = pytest.mark.slow
RUNS = 40
NAMES = [f"r{number}" for number in range(RUNS)]
PATIENCE_SECONDS = 900.0
STAND_IN = """#!/bin/sh
for word; do name=${word#name=}; done
echo "$name" >> began
case $name in fails*) echo 'error: no loss' >&2; exit 1;; esac
if [ "$name" = cancelled ]; then sleep 300; fi
sleep 2
echo "$name" >> ended
"""


def light_job(name: str, *needs: str) -> Job:
    request = RecipeRequest(Path("dog.yaml"), (f"name={name}",))
    return Job(name, ("train",), (name,), JobStatus.RUN, needs, 0, None, None, request, None, DEFAULT_OUTPUTS, "base")


JOBS = [light_job("load"), light_job("priors", "load"), light_job("fails"), light_job("after", "fails", "load"),
        *(light_job(name, "load", "priors") for name in NAMES)]
LAST = light_job("cancelled", *NAMES)


def run_all(engine: Engine, lose_node: Callable[[], bool]) -> Mapping[str, JobReport]:
    """Submit JOBS and LAST and follow JOBS to their end. lose_node: called when a third is done, until it is true."""
    engine.check()
    for one in (*JOBS, LAST):
        engine.submit(one)
    is_lost, until = False, time.monotonic() + PATIENCE_SECONDS
    reports = engine.poll(1.0)
    while not all(reports[one.id].state.is_final for one in JOBS):
        assert time.monotonic() < until, reports
        done = [name for name in NAMES if reports[name].state is JobState.DONE]
        if len(done) >= RUNS // 3 and not is_lost:
            is_lost = lose_node()
        reports = engine.poll(1.0)
    assert is_lost
    return reports


def cancel_last(engine: Engine) -> JobReport:
    """Cancel LAST once it runs; return its last report."""
    until = time.monotonic() + PATIENCE_SECONDS
    while engine.poll(1.0)[LAST.id].state is not JobState.RUNNING:
        assert time.monotonic() < until
    engine.cancel()
    report = engine.poll(1.0)[LAST.id]
    while not report.state.is_final:
        assert time.monotonic() < until
        report = engine.poll(1.0)[LAST.id]
    return report


def assert_whole(folder: Path, reports: Mapping[str, JobReport], last: JobReport) -> None:
    """Every job has ended as it should; those of the lost node, at most two, have begun twice."""
    assert {reports[name].state for name in ("load", "priors", *NAMES)} == {JobState.DONE}
    assert (reports["fails"].state, reports["fails"].text) == (JobState.FAILED, "no loss")
    assert reports["after"] == JobReport(JobState.SKIPPED, "it needs fails")
    assert last.state is JobState.STOPPED
    assert set((folder / "ended").read_text().split()) == {"load", "priors", *NAMES}
    began = Counter((folder / "began").read_text().split())
    assert began[LAST.id] == 1 and sum(began.values()) - len(began) <= 2


@pytest.mark.skipif(bool(missing_programs()), reason="needs Slurm")
def test_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stand-in").write_text(STAND_IN)
    (tmp_path / "stand-in").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "stand-in"))
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_QUERIES", 1.0)
    (tmp_path / "cluster").mkdir()
    with slurm_cluster(tmp_path / "cluster") as cluster:

        def lose_node() -> bool:
            if not cluster.runs_job("n2"):
                return False
            cluster.kill_node("n2")
            return True

        monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        reports = run_all(SlurmEngine(tmp_path / "store"), lose_node)
        # a second command, which plans what is missing, finds the job that still runs
        again = SlurmEngine(tmp_path / "store")
        again.check()
        again.submit(light_job(LAST.id))
        last = cancel_last(again)
    assert_whole(tmp_path, reports, last)


def light_task(call: Mapping[str, Any], board: Any, *needed: Outcome) -> Outcome:
    """The task of the engine with a stand-in for the run of dbrun; runs on a node of Ray."""
    from dbrun.engines import ray as on_node

    def run_stand_in(call: Mapping[str, Any], stop: threading.Event, tell: Callable[[str], None]) -> Outcome:
        name = call["id"]
        with Path("began").open("a") as began:
            began.write(f"{name}\n")
        if name == "fails":
            return {"ended": 1, "text": "no loss", "fix": None}
        if name == "cancelled":
            until = time.monotonic() + PATIENCE_SECONDS
            # not `stop.wait`: Ray's interrupt reaches Python between two steps of it, and ends no call
            while not stop.is_set():
                assert time.monotonic() < until
                time.sleep(0.1)
            return {"ended": 130, "text": "interrupted", "fix": None}
        time.sleep(0.5)
        with Path("ended").open("a") as ended:
            ended.write(f"{name}\n")
        return {"ended": 0, "text": "", "fix": None}

    on_node.run_job = run_stand_in
    return on_node.run_as_task(call, board, *needed)


def test_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ctrl-C cancels hears of it in its main thread."""
    pytest.importorskip("ray")
    from ray import cloudpickle

    # nodes do not have the tests
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_module, "run_as_task", light_task)
    with ray_cluster() as (environment, kill_second):

        def lose_node() -> bool:
            kill_second()
            return True

        monkeypatch.setenv("RAY_ADDRESS", environment["RAY_ADDRESS"])
        with closing(RayEngine(tmp_path / "store")) as engine:
            reports = run_all(engine, lose_node)
            last = cancel_last(engine)
    assert_whole(tmp_path, reports, last)
