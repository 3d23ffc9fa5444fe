"""Are the rows of a table read as overrides, and is every wrong one told with its place?"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dbrun.api.request import RecipeRequest
from dbrun.engines.planning import plan_jobs
from dbrun.engines.rows import MAX_PROBLEMS, read_rows, rows_of
from dbrun.recipe.shipped import shipped_recipes
from dbrun.recipe.text.overlay import parse_overrides
from dbrun.recipe.text.spans import InvalidRecipe
from dbrun.recipe.text.tree import plain_data

TEXTS = ["rex", "it's a \"dog\"", " blank ", "null", "[a", "{b}", "'c", "two\nlines", "tab\there", "a: b # c", "",
         "ß 犬", "2024", "$HOME `x`", "\x07", "a=b"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_means_itself_as_an_override(text: str) -> None:
    row, = rows_of([{"subject": {"instance_prompt": text}}])
    assert plain_data(parse_overrides(row.words, [])) == {"subject": {"instance_prompt": text}}
    assert "\n" not in row.words[0]


def test_values_nested_and_dotted_become_words() -> None:
    row, = rows_of([{"name": "a", "train": {"steps": 4, "learning_rate": 1e-5}, "prior": None, "export": ["peft"],
                     "train.tf32": False}])
    assert row.words == ("name=a", "train.steps=4", "train.learning_rate=1e-05", "prior=null", 'export=["peft"]',
                         "train.tf32=false")


def test_all_wrong_lines_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"name": "a"}\n\n[1]\n{"a": \n{"a": 1, "a": 2}\n{"a": NaN}\n{"a": "\\ud800"}\n{"a": "\xff"}\n'
                     b'{"a": {"b": 1}, "a.b": 2}\n{"a=b": 1}\n')
    with pytest.raises(InvalidRecipe) as caught:
        read_rows(file)
    told = [(problem.span.line, problem.span.column, problem.message) for problem in caught.value.problems
            if problem.span]
    assert told == [(3, 1, "found [1], allowed: an object"), (4, 7, "no JSON: expecting value"),
                    (5, 7, "found this key twice in a row"), (6, 1, "found NaN, which is no JSON number"),
                    (7, 1, "found text that is not UTF-8"), (8, 1, "found text that is not UTF-8"),
                    (9, 24, "found this key twice in a row"),
                    (10, 9, "found the key 'a=b', allowed: a key of a recipe")]
    file.write_text("\n\n")
    with pytest.raises(InvalidRecipe, match="found no row"):
        read_rows(file)


def test_of_very_many_wrong_lines_the_rest_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("1\n" * (MAX_PROBLEMS + 3))
    with pytest.raises(InvalidRecipe) as caught:
        read_rows(file)
    assert caught.value.problems[-1].message == "3 more problems"


def test_a_wrong_value_is_told_at_its_place_in_the_table(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"name": "a", "train": {"steps": "x"}}, {"name": "b", "trian.steps": 3}, {"name": "a"},
            {"name": "c", "subject.images": "nowhere"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InvalidRecipe) as caught:
        plan_jobs([RecipeRequest(shipped_recipes()["sks_dog"], store=tmp_path / "store")], rows=read_rows(file))
    told = [(problem.span.line, problem.span.column, problem.key, re.split("[,:]", problem.message)[0])
            for problem in caught.value.problems if problem.span and problem.span.file == file]
    assert told == [(1, 34, "train.steps", "found 'x'"),
                    (2, 30, "trian", "unknown key; did you mean 'train'?"),
                    (4, 33, "subject.images", "no such folder")], caught.value
    assert not (tmp_path / "store").exists()
