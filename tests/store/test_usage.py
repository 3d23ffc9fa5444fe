"""The disk usage of many runs: what they share is read once."""

from collections import Counter
from pathlib import Path

import pytest
from bench import growth

from dbrun.store.runs import ROOTS_FILE, list_runs
from dbrun.store.store import Store
from dbrun.store.traces import Trace, Traces
from dbrun.store.usage import disk_usage_by_run


def test_traces_that_runs_share_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / ".dbrun")
    growth.write_runs(store, 3)
    reads: Counter[tuple[str, str]] = Counter()
    read_trace = Traces.read

    def counted(traces: Traces, stage: str, key: str) -> Trace | None:
        reads[stage, key] += 1
        return read_trace(traces, stage, key)

    monkeypatch.setattr(Traces, "read", counted)
    sizes = list(disk_usage_by_run(store, list_runs(store)))
    assert len(reads) == len(growth.SHARED) + growth.CLASS_IMAGES + 3 * len(growth.OWN)
    assert set(reads.values()) == {1}
    assert len(set(sizes)) == 1 and sizes[0] > 0


def test_a_run_with_a_damaged_record_is_listed_without_a_size(tmp_path: Path) -> None:
    store = Store(tmp_path / ".dbrun")
    growth.write_runs(store, 2)
    newest = list_runs(store)[0]
    (newest.folder / ROOTS_FILE).write_text("{")
    damaged, whole = disk_usage_by_run(store, list_runs(store))
    assert damaged == 0 < whole
