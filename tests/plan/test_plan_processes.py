"""Several processes on one store: each stage is computed once, everybody gets the same."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stub_world import go, make_home

from dbrun.events import Note

SCRIPT = Path(__file__).parent / "stub_world.py"
ORDER = ["load", "adapt", "generate-priors", "preprocess", "train", "export"]


def start(home, *overrides, **env):
    return subprocess.Popen([sys.executable, SCRIPT, home, *overrides], stdout=subprocess.PIPE, text=True,
                            env={**os.environ, **{k: str(v) for k, v in env.items()}})


def finish(process):
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    return json.loads(out)


def computed(log):
    return sorted(line for line in log.read_text().splitlines() if not line.startswith(" "))


@pytest.fixture
def log(fresh):
    return fresh / "runs"


def test_the_same_recipe_in_three_processes_is_computed_once(home, log):
    runs = [start(home, STUB_RUNS=log, STUB_PAUSE=0.2) for _ in range(3)]
    ran = [finish(run) for run in runs]
    assert computed(log) == sorted(ORDER)
    assert sorted(stage for one in ran for stage in one) == sorted(ORDER)
    assert (home / "outputs" / "stub" / "dbrun.json").exists()


def test_two_lengths_of_one_training_share_their_steps_safely(home, fresh, log):
    runs = [start(home, f"train.steps={n}", f"name=n{n}", STUB_RUNS=log, STUB_PAUSE=0.1) for n in (6, 9)]
    for run in runs:
        finish(run)
    other = make_home(fresh / "other")
    for n in (6, 9):
        go(other, f"train.steps={n}", f"name=n{n}")
        weights = [(h / "outputs" / f"n{n}" / "peft" / "weights").read_text() for h in (home, other)]
        assert weights[0] == weights[1]


def test_two_recipes_share_what_is_equal(home, log):
    runs = [start(home, f"train.learning_rate={r}", f"name=r{i}", STUB_RUNS=log, STUB_PAUSE=0.1)
            for i, r in enumerate((0.1, 0.2))]
    for run in runs:
        finish(run)
    assert computed(log) == sorted([*ORDER, "train", "export"])


def test_without_working_locks_the_results_are_right_all_the_same(home, fresh):
    fork = multiprocessing.get_context("fork")

    def run():
        import fcntl

        fcntl.flock = lambda handle, how: None
        go(home)

    children = [fork.Process(target=run) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert go(home).ran == ()
    other = make_home(fresh / "other")
    go(other)
    for name in ("peft/weights", "diffusers/weights"):
        assert (home / "outputs/stub" / name).read_text() == (other / "outputs/stub" / name).read_text()


def test_a_waiter_says_for_whom(home, log):
    first = start(home, STUB_RUNS=log, STUB_PAUSE=1.0)
    while not log.exists():
        pass
    told = []
    go(home, emit=told.append)
    finish(first)
    waits = [e.text for e in told if isinstance(e, Note) and "waiting for" in e.text]
    assert waits and f"process {first.pid} on " in waits[0]
