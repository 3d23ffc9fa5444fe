"""Two hundred faults of S3 servers between machines that share a remote store: each result is right or missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faulty_http import EVERY, FaultyServer
from remote_machines import assert_heals, go
from s3_servers import S3Server, find_program, running_server

from dbrun.store import remote as remote_module
from dbrun.store import remote_files
from dbrun.store.remote import RemoteStore
from dbrun.store.store import Store

pytestmark = pytest.mark.slow
FAULTS_OF_A_SERVER = 100
STALL_SECONDS = 0.5
"""What a call waits for a silent server here, instead of 15 seconds."""


@pytest.fixture(params=["seaweedfs", "s3rver"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[S3Server]:
    pytest.importorskip("s3fs")
    if find_program(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    with running_server(request.param, tmp_path / "server") as server:
        yield server


def machine(folder: Path, url: str) -> tuple[Store, list[tuple[str, str]]]:
    """A store of its own over the remote one, and the messages of its run, as text and level."""
    remote, told = RemoteStore(url, "rw"), []
    remote.connect(lambda stage, text, level: told.append((text, level)), lambda: 0)
    store = Store(folder, remote)
    store.prepare()
    return store, told


def test_faults_of_a_server(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAUSE_SECONDS", "MISS_SECONDS"):
        monkeypatch.setattr(remote_module, name, 0.0)
    proxy = FaultyServer(server.port, 0, slow_seconds=2 * STALL_SECONDS)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    for name, value in replace(server, port=proxy.port).environment.items():
        monkeypatch.setenv(name, value)
    seed = 0
    # until each has occurred, too: which call meets which fault depends on threads
    while proxy.counts.total() < FAULTS_OF_A_SERVER or set(proxy.counts) != EVERY:
        assert seed < FAULTS_OF_A_SERVER, EVERY - set(proxy.counts)
        # a place of its own: nothing of the time before is there
        url = f"{server.environment['DBRUN_REMOTE']}/{server.kind}-{seed}"
        if seed % 2:
            # the others then read more than they write
            go(machine(tmp_path / f"{seed}-first", url)[0])
        proxy.rate = (0.2, 0.1, 0.4, 0.2, 0.7, 0.4)[seed % 6]
        with monkeypatch.context() as impatient:
            impatient.setattr(remote_files, "STALL_SECONDS", STALL_SECONDS)
            for number in range(3):
                store, told = machine(tmp_path / f"{seed}-{number}", url)
                go(store)
                assert [level for _, level in told].count("warning") <= 1, told
        proxy.rate = 0.0
        # what the server was slow with has arrived by then
        time.sleep(2 * STALL_SECONDS)
        assert_heals([machine(tmp_path / str(seed) / str(number), url)[0] for number in range(3)])
        seed += 1
    proxy.shutdown()
