"""A recipe on standard input: read like a file in the current folder, and remembered as no file."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from dbrun.cli.run import read_request
from dbrun.cli.words import parse_request
from dbrun.errors import DbrunError
from dbrun.recipe.new import StarterRequest, starter_recipe
from dbrun.run.run_log import RunLog


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_recipe_is_read_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = starter_recipe(StarterRequest("dog"))
    give(monkeypatch, text.encode())
    request = parse_request(Path("-"), ["seed=3"], None, Path("elsewhere"))
    assert request.words == ("-", "--store", "elsewhere", "seed=3")
    loaded, _, store = read_request(request)
    assert loaded.recipe.name == "dog" and loaded.recipe.seed == 3
    assert loaded.folder_of("subject.images") == tmp_path and store.root == tmp_path / "elsewhere"
    store.prepare()
    RunLog.begin(store, loaded, ["seed=3"]).end()
    assert not (store.root / "last.json").exists(), "a later command could not read it again"


@pytest.mark.parametrize(("data", "said"), [
    (b"", "<stdin>:1:1 found no keys such as `name: my_dog`, expected a recipe"),
    (b"name: \xff\n", "<stdin>:1:7 found the byte 0xff, expected UTF-8 text"),
    (b"x" * (256 * 1024 + 1), "<stdin> is larger than 256 KiB; no recipe is"),
    (b"schema: dbrun/v1\nnam: x\n", "<stdin>:2:1 nam: unknown key; did you mean 'name'?")])
def test_a_wrong_text_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes,
                                             said: str) -> None:
    monkeypatch.chdir(tmp_path)
    give(monkeypatch, data)
    with pytest.raises(DbrunError) as error:
        read_request(parse_request(Path("-"), None, None))
    assert said in str(error.value)
