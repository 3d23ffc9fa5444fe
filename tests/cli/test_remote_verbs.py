"""`ls`, `du`, `gc` and `verify` with --remote, over a folder that machines share."""

import json
import os
import time

import pytest
from remote_machines import CONTENTS, publish, save_checkpoint

from dbrun.cli import remote_store
from dbrun.cli.verbs import app_for
from dbrun.errors import StageFailed, UsageError
from dbrun.store.remote_settings import configured_remote
from dbrun.store.store import Store


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """The folder of a remote store with two results and a checkpoint."""
    folder = tmp_path / "shared" / "lab"
    monkeypatch.setenv("DBRUN_REMOTE", f"file://{folder}")
    monkeypatch.delenv("DBRUN_REMOTE_MODE", raising=False)
    store = Store(tmp_path / "store", configured_remote(os.environ))
    store.prepare()
    told = []
    store.remote.connect(lambda stage, text, level: told.append(text), lambda: 0)
    for key in CONTENTS:
        publish(store, key)
    assert save_checkpoint(store, 2) and save_checkpoint(store, 4) and told == []
    return folder


def call(*words):
    """A command as it is typed, up to its exit."""
    app_for(list(words))(list(words), standalone_mode=False)


def test_what_people_see(shared, capsys, golden):
    for words in (["ls", "--remote"], ["du", "--remote"], ["gc", "--remote"], ["verify", "--remote"]):
        call(*words)
        said = capsys.readouterr().out
        if words[0] == "ls":
            # without the time, which decides the order
            said = "\n".join(sorted(line[19:] for line in said.splitlines()))
        if words[0] == "du":
            # the sizes of traces depend on the digits of times
            said = "\n".join(line for line in said.splitlines() if not line.startswith(("traces", "all")))
        golden(words[0], said)


def test_what_programs_read(shared, capsys):
    remote_store.list_results(as_json=True)
    results = json.loads(capsys.readouterr().out)["results"]
    assert {result["key"] for result in results} == set(CONTENTS)
    assert all(abs(result["written"] - time.time()) < 60 for result in results)
    remote_store.show_remote_usage(as_json=True)
    assert json.loads(capsys.readouterr().out)["parts"]["train"]["count"] == 2
    remote_store.run_remote_gc(None, dry_run=True, as_json=True)
    assert json.loads(capsys.readouterr().out)["gone"] == {}


def test_old_things_go(shared, capsys):
    for path in shared.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 40 * 86400,) * 2)
    call("gc", "--remote", "--older-than", "45", "--json")
    assert json.loads(capsys.readouterr().out)["kept"] == 2
    call("gc", "--remote", "--json")
    assert set(json.loads(capsys.readouterr().out)["gone"]) == {"results", "checkpoints", "files"}
    assert [path for path in shared.rglob("*") if path.is_file()] == []


def test_damage_is_found_and_exit_code_5(shared, capsys, monkeypatch):
    damaged = next(path for path in shared.rglob("objects/*/*") if path.read_bytes() == b"one")
    damaged.write_bytes(b"onE")
    monkeypatch.setenv("DBRUN_REMOTE_MODE", "ro")
    assert not remote_store.verify_remote_store(as_json=False) and damaged.exists()
    monkeypatch.delenv("DBRUN_REMOTE_MODE")
    assert not remote_store.verify_remote_store(as_json=False) and not damaged.exists()
    assert remote_store.verify_remote_store(as_json=False)
    assert "removed" in capsys.readouterr().out


def test_what_does_not_fit_is_refused(shared, monkeypatch, golden):
    told = []
    for words in (["gc", "--remote", "--keep", "1"], ["gc", "--older-than", "5"]):
        with pytest.raises(UsageError) as caught:
            call(*words)
        told.append(str(caught.value))
    monkeypatch.setenv("DBRUN_REMOTE_MODE", "ro")
    with pytest.raises(UsageError) as caught:
        call("gc", "--remote")
    told.append(str(caught.value))
    monkeypatch.delenv("DBRUN_REMOTE")
    with pytest.raises(UsageError) as caught:
        call("du", "--remote")
    told.append(str(caught.value))
    golden("refused", "\n".join(told))


def test_a_server_that_fails_is_a_clear_error(shared, monkeypatch):
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.find", lambda *words, **more: 1 / 0)
    with pytest.raises(StageFailed, match="the remote store failed: ZeroDivisionError"):
        call("du", "--remote")
