"""Killed or refused at any of the system's calls, a run leaves a store from which the same command finishes alike."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from representatives import cases
from stub_outcomes import finishes_alike, outputs
from stub_world import go, make_home

from dbrun.errors import DbrunError

CALLS = ("rename", "fsync", "mkdir", "unlink", "rmdir", "fchmod")
SCRIPT = Path(__file__).parents[1] / "stub_world.py"


@pytest.fixture(scope="module")
def whole(quick):
    """What an undisturbed run delivers."""
    home = make_home(quick / "whole")
    go(home)
    return outputs(home)


def in_a_child(home, call, number, action):
    """Run in a forked process in which one use of a system call is replaced; its exit code, None if killed."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    real, count = getattr(os, call), [0]

    def disturbed(*args, **kwargs):
        count[0] += 1
        if count[0] == number:
            action()
        return real(*args, **kwargs)

    setattr(os, call, disturbed)
    code = 99
    try:
        go(home)
        code = 0 if count[0] >= number else 50
    except DbrunError as error:
        code = error.exit_code
    finally:
        os._exit(code)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("call", cases(CALLS, 0))
def test_killed_at_every_call(fresh, whole, call):
    for number in range(1, 1000):
        home = make_home(fresh / str(number))
        code = in_a_child(home, call, number, kill)
        if code == 50:
            break
        assert code is None
        finishes_alike(home, whole)
        shutil.rmtree(home)
    assert number > 1


@pytest.mark.parametrize("call", cases(CALLS, 3))
@pytest.mark.parametrize("failure", [errno.ENOSPC, pytest.param(errno.EIO, marks=pytest.mark.slow),
                                     pytest.param(errno.EACCES, marks=pytest.mark.slow)])
def test_refused_at_every_call(fresh, whole, call, failure):
    def refuse():
        raise OSError(failure, os.strerror(failure))

    for number in range(1, 1000):
        home = make_home(fresh / str(number))
        code = in_a_child(home, call, number, refuse)
        if code == 50:
            break
        assert code in (0, 1), f"{call} number {number} ended with {code}"
        finishes_alike(home, whole)
        shutil.rmtree(home)
    assert number > 1


def test_killed_again_and_again_it_still_ends(fresh, whole):
    home = make_home(fresh / "home")
    for number in range(1, 100):
        # so late that each run comes a little further than the one before
        if in_a_child(home, "rename", min(number, 18), kill) in (0, 50):
            break
    assert 5 < number < 99
    finishes_alike(home, whole)


def test_killed_at_random_instants(fresh, whole):
    chance = random.Random(0)
    for number in range(12):
        home = make_home(fresh / str(number))
        child = os.fork()
        if not child:
            try:
                go(home)
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0, 0.25))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        finishes_alike(home, whole)


def test_a_limit_on_file_sizes_is_a_clear_error(fresh, whole):
    home = make_home(fresh / "home")
    # Python itself would write the half of a compiled module, and later trip over it
    code = ("import resource, runpy, signal, sys; sys.dont_write_bytecode = True;"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY));"
            f"sys.path.insert(0, {str(SCRIPT.parent)!r}); sys.argv = ['x', {str(home)!r}];"
            f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "larger than this system allows" in done.stderr
    assert "Traceback" not in done.stderr
    finishes_alike(home, whole)
