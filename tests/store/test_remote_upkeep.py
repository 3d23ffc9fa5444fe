"""Upkeep of the remote store: a gc takes only what is old, and verification finds every changed byte."""

from datetime import timedelta

import pytest
from faulty_files import FaultyFiles
from remote_machines import CONTENTS, checkpoint_name, machine, publish, save_checkpoint

from dbrun.errors import StoreCorrupt
from dbrun.store.remote import object_name
from dbrun.store.remote_upkeep import collect_remote_garbage, read_content, usage_by_part, verify_remote
from dbrun.store.traces import trace_name

FIRST, SECOND = CONTENTS


@pytest.fixture
def files():
    return FaultyFiles(0, 0.0)


@pytest.fixture
def store(fresh, files):
    """A store of a run that has published two results and a checkpoint."""
    store, _ = machine(fresh / "a", files)
    for key in CONTENTS:
        publish(store, key)
    save_checkpoint(store, 2)
    return store


def make_older(files, days, *parts):
    """Set back the clock of all files whose path holds one of these parts."""
    for path, file in files.real.store.items():
        if any(part in path for part in parts):
            file.created -= timedelta(days=days)


def paths(files, part):
    return sorted(path for path in files.real.store if f"/{part}/" in path)


def test_what_is_used_or_new_stays(store, files, fresh, monkeypatch):
    monkeypatch.setattr("dbrun.store.remote._created", lambda trace: 0.0)
    make_older(files, 40, "/traces/", "/objects/", "/work/")
    save_checkpoint(store, 4)
    second, _ = machine(fresh / "b", files)
    used = second.look_up("train", FIRST, "bytes")
    planned = collect_remote_garbage(second.remote.files, 30, dry_run=True)
    assert collect_remote_garbage(second.remote.files, 30, dry_run=False) == planned
    assert paths(files, "traces") == [f"/remote/traces/train/{FIRST}.json"] and planned.kept == 1
    assert paths(files, "objects") == sorted({f"/remote/{object_name(file)}" for file in used.files.values()})
    assert [path.rpartition("/")[2] for path in paths(files, "work")] == [checkpoint_name(4)]
    third, _ = machine(fresh / "c", files)
    assert third.look_up("train", FIRST, "bytes") == used and third.look_up("train", SECOND, "bytes") is None


def test_a_result_that_only_strangers_read_grows_old(store, files, fresh):
    make_older(files, 40, "/traces/")
    machine(fresh / "b", files, "ro")[0].look_up("train", FIRST, "bytes")
    assert collect_remote_garbage(store.remote.files, 30, dry_run=False).kept == 0


def test_files_of_a_result_that_is_being_published_stay(store, files, fresh):
    """The gc goes on between the files and the trace, and all files had stood there unused for weeks."""
    for path in paths(files, "traces"):
        files.real.rm_file(path)
    make_older(files, 40, "/objects/")
    second, _ = machine(fresh / "b", files)
    write = files.pipe_file

    def pipe_file(path, data):
        if "/traces/" in path:
            collect_remote_garbage(second.remote.files, 30, dry_run=False)
        write(path, data)

    files.pipe_file = pipe_file
    trace = publish(second, FIRST)
    assert machine(fresh / "c", files)[0].look_up("train", FIRST, "bytes") == trace


def test_ages_are_by_the_clock_of_the_server(store, files, monkeypatch):
    monkeypatch.setattr("dbrun.store.remote_upkeep.time.time", lambda: 4e9)
    assert collect_remote_garbage(store.remote.files, 2, dry_run=False).freed == {}
    assert not paths(files, "clock")


def test_no_gc_beside_a_damaged_trace(store, files):
    path = f"/remote/traces/{trace_name('train', FIRST)}"
    files.real.pipe_file(path, files.real.cat_file(path)[:-9])
    with pytest.raises(StoreCorrupt, match="damaged"):
        collect_remote_garbage(store.remote.files, 2, dry_run=False)
    verify_remote(store.remote.files, remove=True)
    collect_remote_garbage(store.remote.files, 2, dry_run=False)


def test_verification_names_and_removes_what_is_damaged(store, files):
    assert verify_remote(store.remote.files, remove=True).findings == ()
    flipped = next(path for path in paths(files, "objects") if files.real.cat_file(path) == b"one")
    checkpoint, = paths(files, "work")
    for path in (flipped, checkpoint):
        files.real.pipe_file(path, b"x" + files.real.cat_file(path)[1:])
    report = verify_remote(store.remote.files, remove=False)
    assert [finding.kind for finding in report.findings] == ["file", "trace", "trace", "checkpoint"]
    assert report.counts == {"file": 3, "trace": 2, "checkpoint": 1} and flipped in files.real.store
    verify_remote(store.remote.files, remove=True)
    assert verify_remote(store.remote.files, remove=True).findings == ()


def test_usage_counts_equal_files_once(store, files):
    usage = usage_by_part(read_content(store.remote.files))
    assert usage["train"].count == 2 and usage["train"].bytes == 3 + 3 * 900
    assert usage["checkpoints"].count == 1 and "without a use" not in usage
