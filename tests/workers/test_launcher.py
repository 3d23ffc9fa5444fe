"""Do the processes that a run starts share its work, and is none lost without a word or left behind?"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from stub_world import go, make_home

PROGRAM = Path(__file__).parents[1] / "workers_world.py"


def start(home, *overrides, **env):
    return subprocess.Popen([sys.executable, PROGRAM, home, *overrides], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env={**os.environ, "STUB_RUNS": str(home / "log"),
                                            **{k: str(v) for k, v in env.items()}})


def others(process):
    return psutil.Process(process.pid).children()


def in_training(home, process):
    """Wait until the first process trains; the others."""
    while "train" not in ((home / "log").read_text().split() if (home / "log").exists() else ()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return others(process)


def end(process, members=()):
    out, err = process.communicate(timeout=120)
    _, alive = psutil.wait_procs(members, timeout=20)
    assert not alive, "no process is left behind"
    return process.returncode, out, err


def exported(home):
    return {p.name: p.read_text() for p in (home / "outputs" / "stub").rglob("weights")}


@pytest.fixture
def alone(fresh):
    home = make_home(fresh / "alone")
    go(home)
    return exported(home)


def test_items_are_dealt_and_a_killed_process_ends_the_run_which_then_goes_on(home, alone):
    run = start(home, STUB_STEP=0.3)
    members = in_training(home, run)
    made = sorted(line.split() for line in (home / "log").read_text().splitlines() if "prior" in line and "by" in line)
    assert made == [["prior", str(i), "by", str(i % 2)] for i in range(4)]
    members[0].kill()
    code, _, err = end(run, members)
    assert code == 1 and "process 1 of 2 was killed (SIGKILL" in err and "run the same command again" in err
    code, out, _ = end(start(home))
    assert code == 0 and json.loads(out) == ["train", "export"] and exported(home) == alone


@pytest.mark.slow
def test_when_the_first_process_is_killed_the_others_end(home):
    run = start(home, STUB_STEP=0.3)
    members = in_training(home, run)
    run.kill()
    assert end(run, members)[0] == -signal.SIGKILL


@pytest.mark.slow
def test_what_fails_in_another_process_is_told_by_the_first(home):
    code, _, err = end(start(home, STUB_FAIL=1))
    assert code == 1 and "process 1 of 2: picture 1 came out black" in err and "draw another" in err


@pytest.mark.slow
def test_a_process_that_reads_another_recipe_is_not_trusted(home):
    code, _, err = end(start(home, STUB_OTHER=1))
    assert code == 1 and "process 1 of 2: its generate-priors differs from that of process 0" in err


@pytest.mark.slow
def test_a_signal_to_the_first_process_stops_all_after_a_checkpoint(home, alone):
    run = start(home, STUB_STEP=0.3, STUB_SIZE=3)
    members = in_training(home, run)
    assert len(members) == 2
    run.send_signal(signal.SIGTERM)
    code, _, err = end(run, members)
    assert code == 143 and "run the same command again to resume" in err
    assert end(start(home, STUB_SIZE=1))[0] == 0 and exported(home) == alone


@pytest.mark.slow
def test_a_process_that_never_comes_is_told(home):
    run = start(home)
    while not others(run):
        time.sleep(0.01)
    others(run)[0].send_signal(signal.SIGTERM)
    code, _, err = end(run)
    assert code == 1 and "process 1 of 2 was killed (SIGTERM)" in err
