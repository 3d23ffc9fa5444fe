"""Does the engine `ray` hand jobs to Ray as tasks, and report what becomes of them?"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dbrun.api.request import RecipeRequest
from dbrun.engines import ray as engine_module
from dbrun.engines.base import DEFAULT_OUTPUTS, Job, JobReport, JobState, JobStatus
from dbrun.engines.ray import RayEngine
from dbrun.engines.run_job import Outcome
from dbrun.engines.submit import submit_to
from dbrun.errors import Interrupted, UsageError
from dbrun.events import Event


class RayError(Exception):
    """As in ray.exceptions."""


class TaskCancelledError(RayError):
    """As in ray.exceptions."""


class Ref:
    """A task that runs when somebody waits for it."""

    def __init__(self, function: Callable[..., object], words: tuple[Any, ...]) -> None:
        self._function, self._words = function, words
        self.result: object = None
        self.is_done = False

    def run(self) -> None:
        """Run it in this process, and keep what it raised."""
        self.is_done = True
        try:
            self.result = self._function(*(word.get() if isinstance(word, Ref) else word for word in self._words))
        except RayError as error:
            self.result = error

    def get(self) -> object:
        """Its result; raises what it raised."""
        if isinstance(self.result, RayError):
            raise self.result
        return self.result


class FakeRay(ModuleType):
    """The functions of Ray that the engine calls; options: those of each task."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.__spec__ = ModuleSpec("ray", None)
        self.exceptions = SimpleNamespace(RayError=RayError, TaskCancelledError=TaskCancelledError)
        self.options: list[Mapping[str, Any]] = []
        self.is_down = False

    def init(self, **settings: object) -> None:
        """Connect."""
        if self.is_down:
            raise ConnectionError("Could not find any running Ray instance.")

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        """Decorator of a class or a function."""

        def decorate(made: Any) -> Any:
            if isinstance(made, type):
                return SimpleNamespace(remote=lambda: self._actor(made()))
            self.options.append(options)
            return SimpleNamespace(remote=lambda *words: Ref(made, words))

        return decorate

    def _actor(self, inner: Any) -> object:
        def method(name: str) -> object:
            return SimpleNamespace(remote=lambda *words: getattr(inner, name)(*words))

        return SimpleNamespace(tell=method("tell"), take=method("take"))

    def wait(self, refs: list[Ref], num_returns: int, timeout: float) -> tuple[list[Ref], list[Ref]]:
        """Run the next task, if the caller has time."""
        waiting = [ref for ref in refs if not ref.is_done]
        if timeout and waiting:
            waiting[0].run()
        return [ref for ref in refs if ref.is_done], [ref for ref in refs if not ref.is_done]

    def get(self, made: Any, timeout: float | None = None) -> object:
        """A result."""
        return made.get() if isinstance(made, Ref) else made

    def cancel(self, ref: Ref, recursive: bool) -> None:
        """As for a task that has not begun."""
        ref.is_done, ref.result = True, TaskCancelledError()

    def shutdown(self) -> None:
        """Nothing is open."""


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.chdir(tmp_path)
    return fake


def job(name: str, *needs: str, gpus: int = 0) -> Job:
    request = RecipeRequest(Path("dog.yaml"), (f"name={name}",))
    return Job(name, ("train",), (name,), JobStatus.RUN, needs, gpus, None, None, request, None, DEFAULT_OUTPUTS,
               "base")


def run(tmp_path: Path, *jobs: Job, cancel: threading.Event | None = None,
        told: list[Event] | None = None) -> Mapping[str, JobReport]:
    with closing(RayEngine(tmp_path)) as engine:
        engine.check()
        return submit_to(engine, jobs, (told if told is not None else []).append, cancel)


def fake_run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the running of jobs; the names of those that began."""
    began = []

    def run_job(call: Mapping[str, Any], stop: threading.Event, tell: Callable[[str], None]) -> Outcome:
        name = call["id"]
        began.append(name)
        tell("train 1/2")
        if name == "lost":
            raise RayError("The worker died\nno module named dbrun")
        if name == "fails":
            return {"ended": 1, "text": "no loss", "fix": "another rate"}
        return {"ended": 143 if name == "stopped" else 0, "text": "", "fix": None}

    monkeypatch.setattr(engine_module, "run_job", run_job)
    return began


def test_tasks_run_after_those_that_they_need(ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = fake_run(monkeypatch)
    jobs = [replace(job("load"), memory=100), job("a", "load", gpus=2), job("b", "load", "a")]
    reports = run(tmp_path, *jobs)
    assert began == ["load", "a", "b"] and {one.state for one in reports.values()} == {JobState.DONE}
    assert reports["a"].attempts == 1 and reports["a"].seconds is not None
    assert ray.options == [
        {"num_cpus": 1, "num_gpus": 0, "max_retries": -1, "max_calls": 0, "memory": 150},
        {"num_cpus": 1, "num_gpus": 2, "max_retries": -1, "max_calls": 1},
        {"num_cpus": 1, "num_gpus": 0, "max_retries": -1, "max_calls": 0}]


def test_failures_are_told_and_what_needs_them_is_skipped(ray: FakeRay, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    began = fake_run(monkeypatch)
    jobs = [job("fails"), job("next", "fails"), job("later", "next"), job("lost"), job("after", "lost"),
            job("stopped"), job("fine")]
    reports = run(tmp_path, *jobs)
    assert [reports[one.id].state.value for one in jobs] == ["failed", "skipped", "skipped", "failed", "skipped",
                                                            "stopped", "done"]
    assert (reports["fails"].text, reports["fails"].fix) == ("no loss", "another rate")
    assert reports["later"].text == "it needs next" and "no module named dbrun" in reports["lost"].text
    assert began == ["fails", "lost", "stopped", "fine"]


def test_ctrl_c_cancels_what_has_not_ended(ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, stop, told = fake_run(monkeypatch), threading.Event(), []
    stop.set()
    with pytest.raises(Interrupted):
        run(tmp_path, job("a"), job("b"), cancel=stop, told=told)
    assert not began and told[-1].to_json()["jobs"][1]["state"] == "stopped"


def test_a_task_gets_the_folder_and_the_remote_store_of_the_command(ray: FakeRay, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def run_job(call: Mapping[str, Any], stop: threading.Event, tell: Callable[[str], None]) -> Outcome:
        seen.update(here=Path.cwd(), remote=os.environ["DBRUN_REMOTE"], store=call["store"])
        return {"ended": 0, "text": "", "fix": None}

    monkeypatch.setattr(engine_module, "run_job", run_job)
    monkeypatch.setenv("DBRUN_REMOTE", "s3://bucket/x")
    run(tmp_path / "store", job("a"))
    assert seen == {"here": tmp_path, "remote": "s3://bucket/x", "store": str(tmp_path / "store")}


def test_what_is_missing_is_told_before_anything_is_submitted(ray: FakeRay, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="found --gpus, and Ray itself shares out GPUs"):
        RayEngine(tmp_path, gpus=2).check()
    ray.is_down = True
    with pytest.raises(UsageError, match="no Ray cluster answers: Could not find any running Ray instance") as caught:
        RayEngine(tmp_path).check()
    assert caught.value.fix == "start one with `ray start --head`, or set RAY_ADDRESS"
    monkeypatch.setattr(engine_module, "PACKAGE", replace(engine_module.PACKAGE, module="no_such_module"))
    with pytest.raises(UsageError, match="needs the package ray") as caught:
        RayEngine(tmp_path).check()
    assert caught.value.fix == "pip install 'dbrun[ray]'"
