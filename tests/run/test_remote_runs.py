"""Runs over a remote store: a second machine computes nothing, and goes on where the first one was taken away."""

import os
import signal
from types import SimpleNamespace

import pytest
from faulty_files import FaultyFiles, faulty_remote
from stub_world import go, make_home

from dbrun.errors import Interrupted
from dbrun.events import Note, Progress, StageStarted
from dbrun.run import checkpoint_uploads

STAGES = ("load", "adapt", "generate-priors", "preprocess", "train", "export")


@pytest.fixture
def files():
    return FaultyFiles(0, 0.0)


def on_machine(folder, files, *overrides, emit=None, mode="rw"):
    """A run on a machine that shares nothing but the remote store; the events go to `emit`."""
    home = folder if folder.exists() else make_home(folder)
    return go(home, *overrides, emit=emit, remote=faulty_remote(files, mode)[0])


def delivered(folder):
    outputs = folder / "outputs" / "stub"
    return {str(path.relative_to(outputs)): path.read_bytes() for path in outputs.rglob("*")
            if path.is_file() and path.name != "dbrun.json"}


def test_the_second_machine_computes_nothing(fresh, files):
    assert on_machine(fresh / "a", files).ran == STAGES
    second = on_machine(fresh / "b", files)
    assert second.ran == () and delivered(fresh / "b") == delivered(fresh / "a")
    events = []
    assert on_machine(fresh / "c", files, "train.steps=8", emit=events.append).ran == ("train", "export")
    assert [e.stage for e in events if isinstance(e, Note)] == ["load", "adapt", "preprocess"]


def test_single_items_are_shared(fresh, files, monkeypatch):
    on_machine(fresh / "a", files)
    monkeypatch.setenv("STUB_RUNS", str(fresh / "log"))
    on_machine(fresh / "b", files, "prior.count=6")
    assert (fresh / "log").read_text().count("prior") == 2 + 1, "two class images, and the stage itself"


def test_results_from_before_there_was_a_remote_store_are_shared(fresh, files):
    home = make_home(fresh / "a")
    go(home)
    assert on_machine(home, files).ran == ()
    assert on_machine(fresh / "b", files).ran == ()


def test_a_machine_that_is_taken_away_is_followed_by_another(fresh, files, monkeypatch):
    def stop(event):
        if isinstance(event, Progress) and event.stage == "train" and event.done == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    on_machine(fresh / "whole", FaultyFiles(0, 0.0))
    with pytest.raises(Interrupted):
        on_machine(fresh / "a", files, emit=stop)
    assert len([path for path in files.real.store if "/work/" in path]) == 1
    log = fresh / "log"
    monkeypatch.setenv("STUB_RUNS", str(log))
    events = []
    on_machine(fresh / "b", files, emit=events.append)
    assert log.read_text().count("  step\n") == 2, "steps 5 and 6"
    assert [e.resumed for e in events if isinstance(e, StageStarted)] == [True, False]
    assert delivered(fresh / "b") == delivered(fresh / "whole")
    assert not [path for path in files.real.store if "/work/" in path], "the result stands, so the checkpoint goes"


def test_uploads_of_checkpoints_take_a_twentieth_of_the_time(fresh, files, monkeypatch):
    # an upload takes a second by this clock, and so does a step
    clock = iter(range(10**6))
    monkeypatch.setattr(checkpoint_uploads, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    saved = []
    real = type(faulty_remote(files)[0]).save_checkpoint

    def save(self, stage, resume_key, path):
        saved.append(path.name)
        return real(self, stage, resume_key, path)

    monkeypatch.setattr("dbrun.store.remote.RemoteStore.save_checkpoint", save)
    on_machine(fresh / "a", files, "train.steps=100", "train.checkpoint_every=1")
    assert 4 <= len(saved) <= 100 / 20 + 1


def test_a_server_that_always_fails_changes_nothing_but_one_warning(fresh):
    events = []
    on_machine(fresh / "whole", FaultyFiles(0, 0.0))
    assert on_machine(fresh / "a", FaultyFiles(1, 1.0), emit=events.append).ran == STAGES
    warnings = [event.text for event in events if isinstance(event, Note) and event.level == "warning"]
    assert len(warnings) == 1 and "the remote store failed" in warnings[0]
    assert delivered(fresh / "a") == delivered(fresh / "whole")


def test_a_stranger_reads_and_writes_nothing(fresh, files):
    on_machine(fresh / "a", files, mode="ro")
    assert not files.real.store
