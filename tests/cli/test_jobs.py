"""Do `jobs` and `submit` say what there is to do, and what is wrong with the words?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dbrun.cli.jobs import check_form, plan_words, show_jobs, submit_words
from dbrun.errors import UsageError
from dbrun.events import JobChanged, JobsFinished
from dbrun.ui.jobs import MAX_ROWS, JobReporter, JobRow, jobs_table

OUTPUTS = Path("outputs")


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBRUN_STORE", raising=False)


def test_the_jobs_are_shown_as_a_table_as_json_and_for_make(capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_words(["sks_dog"], None, ["train.steps=300,400"], None, OUTPUTS, None)
    show_jobs(plan, form=None, as_json=False)
    said = capsys.readouterr()
    assert [" ".join(line.split()) for line in said.out.splitlines()] == [
        "job status stages", "load + adapt for 2 runs RUN load, adapt",
        "generate-priors for 2 runs RUN generate-priors", "preprocess for 2 runs RUN preprocess",
        "sks_dog-train.steps-300 RUN train, export",
        "sks_dog-train.steps-400 RUN train, export", "5 jobs for 2 runs"]
    assert "300 epochs (1 run)" in said.err and "ComfyUI and Forge" in said.err
    show_jobs(plan, form=None, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == 2 and len(found["jobs"]) == 5 and {note["runs"] for note in found["notes"]} == {1, 2}
    show_jobs(plan, form="make", as_json=False)
    assert capsys.readouterr().out.splitlines()[-1].startswith("\tdbrun run ")


def test_what_is_wrong_with_the_words_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="allowed are make, snakemake, slurm") as caught:
        check_form("maek", as_json=False)
    assert caught.value.fix == "write --as make, or use --json"
    with pytest.raises(UsageError, match="found --as and --json"):
        check_form("make", as_json=True)
    with pytest.raises(UsageError, match="no recipe is named"):
        plan_words(["train.steps=3"], None, None, None, OUTPUTS, None)
    with pytest.raises(UsageError, match=r"rows.jsonl cannot be read: No such file"):
        plan_words(["sks_dog"], None, None, Path("rows.jsonl"), OUTPUTS, None)
    with pytest.raises(UsageError, match="--engine 'slrum'"):
        submit_words(["sks_dog"], None, None, None, OUTPUTS, None, engine_name="slrum", gpus=None, follow=True,
                     as_json=True)
    assert json.loads(capsys.readouterr().out)["event"] == "run_failed"


def test_a_long_table_is_cut_and_has_only_columns_that_say_something() -> None:
    rows = [JobRow(f"dog-{number}", "run", ("train",), 1, 2**30, 90.0) for number in range(MAX_ROWS + 2)]
    head, first, *_, more, total = jobs_table(rows, 42).splitlines()
    assert head.split() == ["job", "status", "gpus", "memory", "time", "stages"]
    assert first.split() == ["dog-0", "RUN", "1", "1.0", "GiB", "~1", "min", "30", "s", "train"]
    assert more == "  2 more; --json has all"
    assert total == "42 jobs for 42 runs; about 1 h 03 min one after another, going by earlier runs"
    assert jobs_table([], 3) == "3 runs: nothing to do"


def test_a_line_tells_each_end_and_a_table_what_did_not_succeed(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = JobReporter(2)
    for state, text in (("waiting", ""), ("running", ""), ("running", "train 3/9"),
                        ("waiting", "killed; started again"), ("running", ""), ("failed", "no loss")):
        reporter(JobChanged("a-1", "a", ("a",), state, text, None, 2.0))
    ended = [{"job": "a-1", "title": "a", "state": "failed", "text": "no loss"}, {"job": "b", "title": "b",
                                                                                 "state": "done", "text": ""}]
    reporter(JobsFinished(tuple(ended), 3.0))
    said = capsys.readouterr()
    assert said.err.splitlines() == ["waiting  a  2.0 s: killed; started again", "failed   a  2.0 s: no loss"]
    assert said.out.splitlines() == ["a  failed  no loss", "1 failed, 1 done; 3.0 s"]
