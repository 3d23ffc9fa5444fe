"""Does the engine `local` keep processes warm, hand out GPUs, and lose no more than the job of a process that dies?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from projects import Project, lay_out

from dbrun.api.request import RecipeRequest
from dbrun.engines.base import DEFAULT_OUTPUTS, Engine, Job, JobReport, JobState, JobStatus, engines
from dbrun.engines.local import LocalEngine
from dbrun.engines.submit import check_ended, find_engine, submit_to
from dbrun.errors import Interrupted, StageFailed, UsageError
from dbrun.events import Event, JobChanged, JobsFinished

FAKE = Path(__file__).with_name("fake_worker.py")


def job(name: str, *needs: str, gpus: int = 0, base: str = "base") -> Job:
    request = RecipeRequest(Path("dog.yaml"), (f"name={name}",))
    return Job(name, ("train",), (name,), JobStatus.RUN, needs, gpus, None, None, request, None, DEFAULT_OUTPUTS, base)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[LocalEngine]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LocalEngine, "program", (sys.executable, "-S", str(FAKE)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield LocalEngine


def run(engine: Engine, *jobs: Job) -> tuple[Mapping[str, JobReport], list[Event]]:
    told: list[Event] = []
    with closing(engine):
        return submit_to(engine, jobs, told.append), told


def ran() -> list[list[str]]:
    return [line.split() for line in Path("ran").read_text().splitlines()]


def test_one_process_runs_job_after_job_in_an_order_in_which_they_can(local: type[LocalEngine], tmp_path: Path) -> None:
    reports, told = run(local(tmp_path), job("load"), job("a", "load"), job("b", "load"), job("c", "a", "b"))
    assert {report.state for report in reports.values()} == {JobState.DONE}
    assert [name for _, name, _ in ran()] == ["load", "a", "b", "c"] and len({pid for pid, _, _ in ran()}) == 1
    last = told[-1]
    assert isinstance(last, JobsFinished) and [one["state"] for one in last.jobs] == ["done"] * 4
    states = [event.state for event in told if isinstance(event, JobChanged) and event.job == "c"]
    assert states[0] == "waiting" and states[-1] == "done"
    check_ended([job("load")], reports)


def test_a_failed_job_is_told_and_what_needs_it_is_skipped(local: type[LocalEngine], tmp_path: Path) -> None:
    jobs = [job("fails"), job("next", "fails"), job("later", "next"), job("other")]
    reports, _ = run(local(tmp_path), *jobs)
    assert [reports[one.id].state for one in jobs] == ["failed", "skipped", "skipped", "done"]
    assert (reports["fails"].text, reports["fails"].fix) == ("no loss", "another rate")
    assert reports["next"].text == "it needs fails"
    with pytest.raises(StageFailed, match="3 of 4 jobs did not succeed"):
        check_ended(jobs, reports)


def test_a_job_whose_process_dies_is_started_once_more_in_a_fresh_one(local: type[LocalEngine], tmp_path: Path) -> None:
    reports, told = run(local(tmp_path), job("lost"), job("dies"), job("after", "lost"))
    assert [report.state for report in reports.values()] == ["done", "failed", "done"]
    assert reports["dies"].text == "its process was killed by SIGKILL, twice: the last words"
    assert [name for _, name, _ in ran()] == ["lost", "lost", "dies", "dies", "after"] or len(ran()) == 5
    again = [event.text for event in told if isinstance(event, JobChanged) and event.job == "lost" and event.text]
    assert "its process was killed by SIGKILL; started again" in again


def test_each_process_sees_its_own_gpus(local: type[LocalEngine], tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    pair, one = job("pair", gpus=2), job("one", "pair", gpus=1)
    reports, _ = run(local(tmp_path), pair, one, job("two", "one", gpus=1))
    assert all(report.state is JobState.DONE for report in reports.values())
    seen = {name: gpus for _, name, gpus in ran()}
    assert seen["pair"] == "2,5" and seen["one"] == seen["two"] in ("2", "5")
    with closing(local(tmp_path, gpus=1)) as engine, pytest.raises(UsageError, match="needs 2 GPUs, and 1 may be used"):
        engine.submit(pair)
    with closing(local(tmp_path, gpus=3)) as engine, pytest.raises(UsageError, match="this machine has 2"):
        engine.check()


def test_a_process_with_the_base_is_preferred(local: type[LocalEngine], tmp_path: Path) -> None:
    jobs = [job("a", base="x"), job("b", base="y"), job("c", "a", "b", base="y"), job("d", "c", base="x")]
    run(local(tmp_path, gpus=2), *jobs)
    pid = {name: pid for pid, name, _ in ran()}
    assert pid["a"] == pid["d"] != pid["b"] == pid["c"]


def test_a_stop_is_handed_on_and_nothing_more_begins(local: type[LocalEngine], tmp_path: Path) -> None:
    stop, told = threading.Event(), []

    def listen(event: Event) -> None:
        told.append(event)
        if isinstance(event, JobChanged) and event.text == "train of long":
            stop.set()

    with closing(local(tmp_path)) as engine, pytest.raises(Interrupted) as caught:
        submit_to(engine, [job("long"), job("next", "long"), job("other")], listen, stop)
    assert caught.value.exit_code == 130
    last = told[-1]
    assert isinstance(last, JobsFinished) and [one["state"] for one in last.jobs] == ["stopped"] * 3
    assert [name for _, name, _ in ran()] == ["long"]


def test_engines_are_found_by_name() -> None:
    assert engines()["local"] is LocalEngine is find_engine("local")
    with pytest.raises(UsageError, match=r"found --engine 'lokal'; allowed are .*local") as caught:
        find_engine("lokal")
    assert caught.value.fix == "write --engine local"


TINY = ("train.steps=2", "export=[peft]")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return lay_out(tmp_path_factory.mktemp("jobs"))


@pytest.mark.slow
def test_warm_processes_deliver_the_bytes_of_runs_made_alone(project: Project) -> None:
    rows = [{"name": f"r{number}", "seed": number} for number in range(3)]
    (project.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = project.dbrun("submit", "tiny.yaml", *TINY, "--each", "rows.jsonl", "--json")
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["event"] == "jobs_finished" and {one["state"] for one in last["jobs"]} == {"done"}
    for number in (0, 2):
        project.dbrun("run", "tiny.yaml", *TINY, f"name=r{number}", f"seed={number}", "--store", "alone", "--outputs",
                      "alone-outputs")
        alone, warm = (project.folder / home / f"r{number}" for home in ("alone-outputs", "outputs"))
        files = [path.relative_to(alone) for path in alone.rglob("*.safetensors")]
        assert files and all((alone / file).read_bytes() == (warm / file).read_bytes() for file in files)
    again = project.dbrun("submit", "tiny.yaml", *TINY, "--each", "rows.jsonl")
    assert "nothing to do" in again.stdout


@pytest.mark.slow
def test_a_killed_process_and_ctrl_c_lose_no_finished_work(project: Project) -> None:
    recipe = ["tiny.yaml", "train.steps=2000", "train.checkpoint_every=5", "export=[peft]", "name=long", "--json"]
    words = [sys.executable, "-m", "dbrun", "submit", *recipe]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(words, cwd=project.folder, env=environment, stdout=subprocess.PIPE, text=True)

    def wait_for(process: subprocess.Popen[str], text: str) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if text in line:
                return
        raise AssertionError(f"it ended without {text!r}")

    process = start()
    wait_for(process, '"train 5')
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    wait_for(process, "killed by SIGKILL; started again")
    wait_for(process, '"train 5')
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    last = json.loads(process.stdout.read().splitlines()[-1])
    assert process.wait(60) == 130 and last["jobs"][0]["state"] == "stopped"
    done = project.dbrun("jobs", *recipe)
    assert json.loads(done.stdout)["jobs"][0]["status"] == "resume"
