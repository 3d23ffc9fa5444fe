"""The remote store: what one machine made another takes, and nothing that a server does gives a wrong result."""

from dataclasses import replace

import pytest
from faulty_files import FaultyFiles, faulty_remote
from remote_machines import (
    CONTENTS,
    RESUME_KEY,
    assert_heals,
    checkpoint_name,
    fetch_checkpoint,
    files_of,
    go,
    machine,
    publish,
    save_checkpoint,
)

from dbrun.store import remote as remote_module
from dbrun.store.remote import object_name


@pytest.fixture
def files():
    return FaultyFiles(0, 0.0)


def test_a_second_machine_takes_what_the_first_one_made(fresh, files):
    first, _ = machine(fresh / "a", files)
    traces = {key: publish(first, key) for key in CONTENTS}
    second, told = machine(fresh / "b", files)
    for key, trace in traces.items():
        assert second.look_up("train", key) is None, "where no file is read, none is fetched"
        assert second.remote_trace("train", key) == trace
        assert second.look_up("train", key, "bytes") == trace
        assert files_of(second, trace) == CONTENTS[key]
    assert [level for _, level in told] == ["info", "info"]
    stored = [path for path in files.real.store if "/objects/" in path]
    assert len(stored) == 3, "equal files are stored once"


def test_a_command_that_only_reads_fetches_nothing(fresh, files):
    trace = publish(machine(fresh / "a", files)[0], "12" * 32)
    second, _ = machine(fresh / "b", files)
    second.remote.is_connected = False
    assert second.look_up("train", trace.key, "bytes") is None
    assert second.remote_trace("train", trace.key, "bytes") == trace
    assert not list((fresh / "b" / "objects").glob("*"))


def test_mode_ro_writes_nothing(fresh, files):
    store, _ = machine(fresh / "a", files, "ro")
    publish(store, "12" * 32)
    assert not save_checkpoint(store, 2) and not files.real.store


def test_damage_here_is_mended_from_there(fresh, files):
    store, told = machine(fresh / "a", files)
    trace = publish(store, "12" * 32)
    file = store.objects.path(trace.digest) / "a"
    file.chmod(0o644)
    file.write_bytes(b"0ne")
    assert store.look_up("train", trace.key, "bytes") == trace and files_of(store, trace) == CONTENTS[trace.key]
    assert "damaged" in told[-1][0] and list((fresh / "a" / "quarantine").iterdir())


def test_the_first_result_stays_and_the_other_is_told(fresh, files):
    first = publish(machine(fresh / "a", files)[0], "12" * 32)
    second, told = machine(fresh / "b", files)
    publish(second, "12" * 32, {"a": b"other"})
    assert len(told) == 1 and "came first" in told[0][0]
    assert machine(fresh / "c", files)[0].look_up("train", "12" * 32, "bytes") == first


@pytest.mark.parametrize("damage", ["gone", "flipped bit", "longer"])
def test_a_result_that_nobody_can_fetch_is_replaced(fresh, files, damage):
    first = publish(machine(fresh / "a", files)[0], "12" * 32)
    path = f"/remote/{object_name(first.files['a'])}"
    if damage == "gone":
        files.real.rm_file(path)
    else:
        files.real.pipe_file(path, b"onE" if damage == "flipped bit" else b"one and more")
    second, told = machine(fresh / "b", files)
    assert second.look_up("train", first.key, "bytes") is None
    publish(second, first.key)
    assert [level for _, level in told] == ([] if damage == "gone" else ["warning"])
    third, _ = machine(fresh / "c", files)
    again = third.look_up("train", first.key, "bytes")
    assert files_of(third, again) == CONTENTS[first.key]


def test_a_server_that_was_away_keeps_the_first_result(fresh, files, monkeypatch):
    first = publish(machine(fresh / "a", files)[0], "12" * 32)
    second, _ = machine(fresh / "b", files)
    monkeypatch.setattr(remote_module, "PAUSE_SECONDS", 0.0)
    with monkeypatch.context() as away:
        away.setattr(files, "get_file", lambda *args, **more: (_ for _ in ()).throw(TimeoutError()))
        assert second.look_up("train", first.key, "bytes") is None
    publish(second, first.key, {"a": b"other"})
    assert machine(fresh / "c", files)[0].look_up("train", first.key, "bytes") == first


def test_only_the_newest_checkpoint_is_kept_and_a_shorter_run_takes_none_beyond_its_end(fresh, files):
    first, _ = machine(fresh / "a", files)
    assert save_checkpoint(first, 2) and save_checkpoint(first, 4)
    assert [path.rpartition("/")[2] for path in files.real.store] == [checkpoint_name(4)]
    second, told = machine(fresh / "b", files)
    assert fetch_checkpoint(second, last_step=3) == []
    assert fetch_checkpoint(second, last_step=4) == [checkpoint_name(4)] and "step 4" in told[0][0]
    assert fetch_checkpoint(second, last_step=4) == [checkpoint_name(4)] and len(told) == 1
    # a finished run of 3 steps removes none of a longer one
    trace = publish(second, "12" * 32)
    second.remote.remove_checkpoints(trace, RESUME_KEY, 3)
    assert any("/work/" in path for path in files.real.store)
    # nor does one whose result could not be published
    second.remote.remove_checkpoints(replace(trace, key="34" * 32), RESUME_KEY, 4)
    assert any("/work/" in path for path in files.real.store)
    second.remote.remove_checkpoints(trace, RESUME_KEY, 4)
    assert not any("/work/" in path for path in files.real.store)


def test_a_dead_server_costs_seconds_and_one_warning(fresh, files, monkeypatch):
    store, told = machine(fresh / "a", files)
    calls = []

    def silence(*args, **kwargs):
        calls.append(args)
        raise TimeoutError

    monkeypatch.setattr(files, "cat_file", silence)
    for key in CONTENTS:
        assert store.look_up("train", key, "bytes") is None
        publish(store, key)
    assert len(calls) == 1, "a server that does not answer is let be for a while"
    assert told == [("the remote store failed: it cannot be reached; what it lacks is computed here", "warning")]


def test_a_call_that_hangs_is_given_up(files, monkeypatch):
    from threading import Event

    from dbrun.store import remote_files

    monkeypatch.setattr(remote_files, "STALL_SECONDS", 0.05)
    hangs = Event()
    monkeypatch.setattr(files, "cat_file", lambda *args, **kwargs: hangs.wait(10))
    remote, told = faulty_remote(files)
    assert remote.read_trace("train", "12" * 32) is None
    hangs.set()
    assert "no answer within" in told[0][0]


def test_two_hundred_faults(fresh, monkeypatch):
    """Machines publish, fetch and go on over a server with faults: each result is right or missing, one warning a run.

    Once the server is well, at most two machines compute a result again, then all that follow find it.
    """
    for name in ("PAUSE_SECONDS", "MISS_SECONDS"):
        # the next call is made at once, so that it can meet the next fault
        monkeypatch.setattr(remote_module, name, 0.0)
    counts: dict[str, int] = {}
    seed = 0
    while sum(counts.values()) < 200:
        files = FaultyFiles(seed, (0.2, 0.4, 0.7)[seed % 3])
        for number in range(2):
            store, told = machine(fresh / f"{seed}-{number}", files)
            go(store)
            assert [level for _, level in told].count("warning") <= 1, told
        files.rate = 0.0
        assert_heals([machine(fresh / f"{seed}" / str(number), files)[0] for number in range(3)])
        for kind, count in files.counts.items():
            counts[kind] = counts.get(kind, 0) + count
        seed += 1
    assert len(counts) == 13, f"every kind of fault has occurred: {counts}"
