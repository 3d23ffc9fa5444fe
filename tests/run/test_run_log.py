"""What is written down about a run helps later and never stands in its way."""

import errno
import json
import os

import pytest

from dbrun.cli.crash import bug_report
from dbrun.errors import DbrunError, StageFailed
from dbrun.events import Note, RunFailed, RunFinished
from dbrun.recipe.load import load_recipe
from dbrun.run.run_log import RunLog
from dbrun.store.runs import list_runs
from dbrun.store.store import Store


@pytest.fixture
def record(home):
    store = Store(home / "store")
    store.prepare()
    return RunLog.begin(store, load_recipe(home / "r.yaml"), ("train.steps=7",))


def test_events_and_keys_are_kept(record):
    record.write_event(Note("train", "hello"))
    record.save_stage_keys({"load": ("1" * 64, "3" * 64)})
    record.save_stage_keys({"train": ("2" * 64, "4" * 64)})
    line = json.loads((record.folder / "events.jsonl").read_text())
    assert line["event"] == "note" and line["text"] == "hello" and line["time"] > 1e9
    assert json.loads((record.folder / "keys.json").read_text()) == {"load": "1" * 64, "train": "2" * 64}
    run, = list_runs(record.store)
    assert run.roots.keys == {"load": "1" * 64, "train": "2" * 64} and run.roots.work["train"] == "4" * 64


def test_a_run_is_alive_until_it_ends_and_however_it_ends(record):
    assert list_runs(record.store)[0].is_live
    record.end()
    assert list_runs(record.store)[0].state == "killed"
    record.write_event(RunFailed("train", "interrupted", None, 143))
    assert list_runs(record.store)[0].state == "interrupted"
    record.write_event(RunFinished(1, 2, 3.0))
    assert list_runs(record.store)[0].state == "done"


def test_events_that_cannot_be_written_spoil_nothing(record):
    (record.folder / "events.jsonl").mkdir()
    record.write_event(Note("train", "hello"))


def test_a_record_that_cannot_begin_is_a_clear_error(home):
    store = Store(home / "store")
    store.prepare()
    store.runs.write_text("a file")
    with pytest.raises(DbrunError, match="writing into the store"):
        RunLog.begin(store, load_recipe(home / "r.yaml"), ())


def test_a_crash_is_logged_and_told_in_one_line(record):
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        told = record.log_crash("train", error, "")
    assert isinstance(told, StageFailed) and told.message == "train failed: ValueError: first"
    log = (record.folder / "log").read_text()
    assert "Traceback" in log and "second" in log
    assert "no message" in record.log_crash("train", ValueError(), "").message


def test_errors_of_the_disk_keep_their_words(record):
    assert "disk is full" in record.log_crash("train", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "").message
    assert "FileNotFoundError" in record.log_crash("train", FileNotFoundError(errno.ENOENT, "No such file"), "").message


@pytest.mark.parametrize("error", [
    MemoryError(), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                 "to allocate 26214400 bytes. Error code 12 (Cannot allocate memory)")],
    ids=["Python", "system", "GPU", "CPU"])
def test_where_memory_is_used_up_the_way_out_is_said(record, error):
    told = record.log_crash("train", error, "lower `train.batch_size`")
    assert isinstance(told, StageFailed) and told.message == "train ran out of memory"
    assert "bug" not in bug_report(error).message
    assert "`train.batch_size`" in told.fix and str(record.folder / "log") in told.fix


def test_an_operation_without_a_deterministic_algorithm_names_the_key_that_forbids_it(record):
    error = RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set "
                         "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for …")
    told = record.log_crash("train", error, "")
    assert "cumsum_cuda_kernel" in told.message and "use_deterministic" not in told.message
    assert "`train.deterministic: false`" in told.fix and "cumsum" in (record.folder / "log").read_text()
