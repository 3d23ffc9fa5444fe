"""A trace is whole or does not count."""

import json
from dataclasses import replace

import pytest

from dbrun.store.traces import ArtifactFile, Trace, Traces, manifest_digest
from dbrun.workload import Workload

KEY = "ab" * 32
FILES = {"a": ArtifactFile(3, "c" * 64)}
TRACE = Trace("train", KEY, manifest_digest(FILES), FILES, {"params": {"x": 1.0, "y": 1}}, "2026-01-01T00:00:00Z", 1.5)


@pytest.fixture
def traces(tmp_path):
    return Traces(tmp_path / "traces", tmp_path / "tmp")


def test_what_is_written_is_read(traces):
    traces.write(TRACE, durable=True)
    found = traces.read("train", KEY)
    assert found == TRACE
    assert type(found.document["params"]["x"]) is float and type(found.document["params"]["y"]) is int
    assert traces.path("train", KEY).name == f"{KEY}.json"


def test_how_large_the_work_was_is_read_too(traces):
    sized = replace(TRACE, startup=2.5, share=0.5, amounts=Workload(30, 5.0, (1.0, 2.0), {".png": 3.0}, ("fp32",)))
    traces.write(sized, durable=False)
    assert traces.read("train", KEY) == sized


def test_nothing_where_nothing_was_written(traces):
    assert traces.read("train", KEY) is None
    assert list(traces.recent("train", 5)) == []


@pytest.mark.parametrize("change", [
    {"key": "cd" * 32}, {"stage": "adapt"}, {"digest": "0" * 64}, {"format_version": 3}, {"document": []},
    {"files": {"a": {"size": 4, "sha256": "c" * 64}}}, {"files": None}, {"seconds": "x"}])
def test_a_changed_trace_does_not_count(traces, change):
    traces.write(TRACE, durable=False)
    path = traces.path("train", KEY)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert traces.read("train", KEY) is None


@pytest.mark.parametrize("cut", [0, 1, 50])
def test_a_cut_trace_does_not_count(traces, cut):
    traces.write(TRACE, durable=False)
    path = traces.path("train", KEY)
    path.write_bytes(path.read_bytes()[:cut])
    assert traces.read("train", KEY) is None


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "a//b", "", "a\\b", "."])
def test_names_that_leave_the_artifact_do_not_count(traces, name):
    files = {name: ArtifactFile(3, "c" * 64)}
    traces.write(replace(TRACE, files=files, digest=manifest_digest(files)), durable=False)
    assert traces.read("train", KEY) is None


@pytest.mark.parametrize(("stage", "key"), [("../x", KEY), ("train", "../../x"), ("Train", KEY), ("train", KEY[:-1])])
def test_names_and_keys_never_become_other_paths(traces, stage, key):
    with pytest.raises(ValueError):
        traces.path(stage, key)


def test_the_newest_come_first_and_strangers_are_passed_over(traces):
    import os

    keys = [f"{i:064x}" for i in range(5)]
    for age, key in enumerate(keys):
        traces.write(replace(TRACE, key=key), durable=False)
        os.utime(traces.path("train", key), (10_000 - age, 10_000 - age))
    (traces.path("train", KEY).parent / "notes.txt").write_text("x")
    assert [t.key for t in traces.recent("train", 3)] == keys[:3]


def test_traces_of_items_are_spread_over_folders(traces):
    traces.write(replace(TRACE, stage="train.item"), durable=False)
    assert traces.path("train.item", KEY).parent.name == KEY[:2]
    assert traces.read("train.item", KEY).key == KEY
