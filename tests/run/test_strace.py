"""Killed or refused by the system at each of its calls, below Python, a run leaves a store that works again."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from representatives import cases
from stub_outcomes import finishes_alike, outputs
from stub_world import go, make_home

from dbrun.errors import DbrunError

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

WRITES = ("write", "sendfile", "pwrite64", "ftruncate", "rename", "mkdir", "fchmod", "fsync", "unlink")
"""Every call by which a run changes a disk (`strace -c` of one shows no other)."""
UNSEEN = 50
BROKEN = 99


@pytest.fixture(scope="module")
def whole(quick):
    """What an undisturbed run delivers."""
    home = make_home(quick / "strace")
    go(home)
    return outputs(home)


def traced(home, call, fault, number, log):
    """Run in a forked process whose call of this number goes wrong; its exit code, negative for a signal."""
    child = os.fork()
    if not child:
        code = BROKEN
        try:
            os.kill(os.getpid(), signal.SIGSTOP)
            go(home)
            code = 0
        except DbrunError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    os.waitpid(child, os.WUNTRACED)
    tracer = subprocess.Popen(["strace", "-o", log, "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={number}",
                               "-p", str(child)], stderr=subprocess.PIPE, text=True)
    while "TracerPid:\t0" in Path(f"/proc/{child}/status").read_text():
        if tracer.poll() is not None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.skip("strace may not trace here")
        time.sleep(0.005)
    os.kill(child, signal.SIGCONT)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    tracer.wait()
    seen = log.read_text()
    return code if "(INJECTED)" in seen or "killed by SIGKILL" in seen else UNSEEN


FAULTS = [*(("signal=KILL", 29), ("error=ENOSPC", 29)),
          *(pytest.param(fault, 1, marks=pytest.mark.slow)
            for fault in ("signal=KILL", "error=ENOSPC", "error=EIO", "error=EACCES"))]


@pytest.mark.parametrize("call", cases(WRITES, 0, 2, 4))
@pytest.mark.parametrize(("fault", "every"), FAULTS)
def test_disturbed_at_every_call_below_python(fresh, whole, call, fault, every, record_property):
    for number in range(1, 1000, every):
        home = make_home(fresh / "home")
        code = traced(home, call, fault, number, fresh / "log")
        if code == UNSEEN:
            break
        assert code in ((-signal.SIGKILL,) if "KILL" in fault else (0, 1)), f"{call} {number}: exit {code}"
        finishes_alike(home, whole)
        shutil.rmtree(home)
    record_property("faults", (number - 1) // every)
    assert number > 1, f"no run calls {call}"
