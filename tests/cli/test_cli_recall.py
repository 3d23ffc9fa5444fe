"""Are `plan` and `validate` answered from stats alone only while they would say the same?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dbrun.cli.files import validate_all
from dbrun.cli.plan import show_plan
from dbrun.cli.words import Asked
from dbrun.plan import observed, unchanged
from dbrun.plan.selection import Selection
from dbrun.plan.unchanged import recall
from dbrun.recipe.new import starter
from dbrun.store.store import Store

PAUSE = 0.06
PLAN, VALIDATE = ("plan", "dog.yaml", "--locked"), ("validate", "dog.yaml")


def plan() -> None:
    show_plan(Asked(Path("dog.yaml")), Selection(), as_json=False, locked=True, exit_code=True, words=PLAN)


def validate() -> None:
    validate_all([Path("dog.yaml")], [], [], as_json=False, alone=False, words=VALIDATE)


def settle(command: Callable[[], None], words: tuple[str, ...]) -> None:
    for _ in range(4):
        time.sleep(PAUSE)
        command()
        if recall(words) is not None:
            return
    raise AssertionError("never recalled")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from dbrun.cli.ask import make_lock

    monkeypatch.setattr(observed, "SETTLED", PAUSE / 2)
    monkeypatch.setattr(unchanged, "FLEETING", (*unchanged.FLEETING, "PYTEST_CURRENT_TEST"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBRUN_STORE", raising=False)
    (tmp_path / "dog.yaml").write_text("extends: low.yaml\nseed: 1\n")
    (tmp_path / "low.yaml").write_text(starter("dog"))
    Store(tmp_path / ".dbrun").prepare()
    make_lock(Asked(Path("dog.yaml")), as_json=False)
    return tmp_path


def same_stats(path: str, old: str, new: str) -> None:
    file, before = Path(path), Path(path).stat()
    with file.open("r+") as opened:
        text = opened.read().replace(old, new, 1)
        opened.seek(0)
        opened.write(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size


def published() -> None:
    store = Store(Path(".dbrun"))
    (made := store.fresh()).joinpath("x").write_text("x")
    store.publish("train", "a" * 64, {"stage": "train"}, made, seconds=1.0)


@pytest.mark.parametrize("change", [
    lambda: same_stats("dog.yaml", "seed: 1", "seed: 2"), lambda: same_stats("low.yaml", "rank: 16", "rank: 17"),
    lambda: Path("dog.lock").unlink(), lambda: Path("dog.lock").write_text("{}"),
    lambda: Path(".dbrun/runs/20260101-000000.000000-dog").mkdir(parents=True), published,
    lambda: os.environ.__setitem__("HF_HOME", "elsewhere"),
])
def test_a_plan_that_would_be_another_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch,
                                                    change: Callable[[], object]) -> None:
    monkeypatch.setenv("HF_HOME", "here")
    settle(plan, PLAN)
    change()
    assert recall(PLAN) is None


def test_what_was_said_and_the_exit_code_are_given_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settle(plan, PLAN)
    capsys.readouterr()
    plan()
    said, (again, code) = capsys.readouterr(), recall(PLAN) or ([], -1)
    assert code == 0 and "".join(text for stream, text in again if stream == "out") == said.out != ""
    assert "".join(text for stream, text in again if stream == "err") == said.err
    same_stats("dog.lock", "a photo", "a fhoto")
    settle(plan, PLAN)
    assert (answer := recall(PLAN)) is not None and answer[1] == 3


def test_a_recipe_that_is_mended_or_broken_is_read_again(folder: Path) -> None:
    settle(validate, VALIDATE)
    assert (answer := recall(VALIDATE)) is not None and answer == ([("out", "dog.yaml: valid\n")], 0)
    same_stats("dog.yaml", "seed: 1", "sead: 1")
    assert recall(VALIDATE) is None
    settle(validate, VALIDATE)
    assert (answer := recall(VALIDATE)) is not None and answer[1] == 2 and "sead" in answer[0][0][1]
    Path("low.yaml").unlink()
    assert recall(VALIDATE) is None


def test_nothing_is_kept_where_there_is_no_store(folder: Path) -> None:
    import shutil

    shutil.rmtree(".dbrun")
    time.sleep(PAUSE)
    plan()
    validate()
    assert not Path(".dbrun").exists()
