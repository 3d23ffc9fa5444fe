"""Does `dbrun report` write the page that is meant, and over no file of the user's?"""

import json
from pathlib import Path

import pytest
from recorded_runs import record_run

from dbrun.cli.report import write_report
from dbrun.errors import UsageError
from dbrun.store.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DBRUN_STORE", "store")
    store = Store(Path("store"))
    store.prepare()
    return store


def test_the_newest_run_or_the_named_ones(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    output = Path("report.html")
    with pytest.raises(UsageError, match="there are no runs"):
        write_report([], output)
    for number, name in enumerate(("dog", "cat")):
        record_run(store, name, number=number, exported=False, every=20)
    write_report([], output)
    assert capsys.readouterr().out.strip() == "report.html" and "<h1>cat</h1>" in output.read_text()
    # a folder that a run delivered stands for the run
    Path("outputs").mkdir()
    Path("outputs/dbrun.json").write_text(json.dumps({"recipe": {"name": "dog"}}))
    write_report(["outputs"], output)
    assert "<h1>dog</h1>" in output.read_text()
    write_report(["dog", "cat"], output)
    assert "2 runs side by side" in output.read_text()


def test_a_file_of_the_user_is_left_alone(store: Store) -> None:
    record_run(store, exported=False, every=20)
    mine = Path("report.html")
    mine.write_text("mine")
    with pytest.raises(UsageError, match=r"report\.html exists already"):
        write_report([], mine)
    assert mine.read_text() == "mine"
    with pytest.raises(UsageError, match="cannot be written"):
        write_report([], Path("store"))
    with pytest.raises(UsageError, match="cannot be written"):
        write_report([], Path("no/folder/report.html"))
