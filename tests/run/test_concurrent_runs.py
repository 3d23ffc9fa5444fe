"""Several processes on one store: each stage is computed once, everybody gets the same."""

import fcntl
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from stub_world import go, make_home

from dbrun.events import Note
from dbrun.store.store import Store
from dbrun.store.verify import verify_store

SCRIPT = Path(__file__).parents[1] / "stub_world.py"
FORK = multiprocessing.get_context("fork")
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


def together(home, log, count, *, locks):
    """Run the recipe in forked processes that start at once; what went wrong in them."""
    gate, said = FORK.Barrier(count), FORK.SimpleQueue()

    def run():
        if not locks:
            fcntl.flock = lambda handle, how: None
        os.environ["STUB_RUNS"] = str(log)
        gate.wait()
        try:
            go(home)
        except BaseException:
            said.put(traceback.format_exc())

    children = [FORK.Process(target=run) for _ in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return said.get() if not said.empty() else None


@pytest.mark.parametrize("rounds", [2, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_eight_processes_do_the_work_once_and_agree_even_without_locks(fresh, rounds, locks):
    whole = make_home(fresh / "whole")
    go(whole)
    for number in range(rounds):
        home, log = make_home(fresh / str(number)), fresh / "runs"
        assert together(home, log, 8, locks=locks) is None
        if locks:
            work = ORDER + ["  prior"] * 4 + ["  picture"] * 3 + ["  step"] * 6
            assert sorted(log.read_text().splitlines()) == sorted(work)
        for name in ("peft/weights", "diffusers/weights"):
            assert (home / "outputs/stub" / name).read_text() == (whole / "outputs/stub" / name).read_text()
        assert sorted(p.name for p in (home / "outputs").iterdir()) == ["stub"]
        assert go(home).ran == () and verify_store(Store(home / "store")).findings == ()
        shutil.rmtree(home)
        log.unlink()


@pytest.mark.slow
def test_a_waiter_says_for_whom(home, log):
    first = start(home, STUB_RUNS=log, STUB_PAUSE=1.0)
    while not log.exists():
        pass
    told = []
    go(home, emit=told.append)
    finish(first)
    waits = [e.text for e in told if isinstance(e, Note) and "waiting for" in e.text]
    assert waits and f"process {first.pid} on " in waits[0]
