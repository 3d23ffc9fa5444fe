"""Does strict YAML say where and how a text is wrong, and keep every scalar's text?"""

from __future__ import annotations

from pathlib import Path

import pytest

from dbrun.config_types import PlainScalar
from dbrun.recipe.text.spans import InvalidRecipe, Source
from dbrun.recipe.text.tree import MappingNode, ScalarNode, plain_data
from dbrun.recipe.text.yaml import MAX_BYTES, parse, read_recipe_file

WRONG = [
    ("a: 1\nb: 2\na: 3\n", ["3:1", "a: found the key twice, first in line 1"]),
    ("t:\n  s: 1\n  s: 2\n", ["3:3", "s: found the key twice, first in line 2"]),
    ("a: &x 1\n", ["1:4", "anchor '&x'"]),
    ("a: &x [1, 1]\nb: &y [*x, *x]\nc: &z [*y, *y]\n", ["1:4", "anchor '&x'", "${train.steps}"]),
    ("a: !!python/object/apply:os.system [ls]\n", ["1:4", "the tag '!!python/object/apply:os.system'"]),
    ("a: !!str 5\n", ["the tag '!!str'"]),
    ("a: !secret x\n", ["the tag '!secret'"]),
    ("<<: {a: 1}\n", ["1:1", "merge key '<<'", "extends"]),
    ("? [a, b]\n: 1\n", ["a list or a mapping as a key"]),
    ("{a: 1}: 2\n", ["a list or a mapping as a key"]),
    ("'': 1\n", ["found nothing before ':'"]),
    ("a: 1\n---\nb: 2\n", ["2:1", "second document"]),
    ("a:\n\tb: 1\n", ["2:1", "found a tab, expected spaces"]),
    ("a: b: c\n", ["1:5", "a second ': '"]),
    ("a: 1\n  b: 2\n", ["2:4", "wrong indentation"]),
    ("a: @here\n", ["1:4", "found '@'", "in quotes"]),
    ("a: `x`\n", ["found '`'"]),
    ("a: [1, 2\n", ["1:4", "expected ',' or ']'"]),
    ('a: "never closed\n', ["1:4", 'the quote " that is never closed']),
    ("a: [1, 2\nb: 3\nc: 4\n", ["1:4", "[ that is not closed up to line 2"]),
    ("t:\n  s: {a: [1}\nb: 3\n", ["2:10", "[ that is not closed", "or ']'"]),
    ("a: 'one\nb: 1\nc: 'two'\n", ["1:4", "the quote ' that is closed only in line 3"]),
    ("a: 'it's'\n", ["1:8", "behind a closing quote", "inside the text as ''"]),
    ('a: "C:\\Users\\bob"\n', ["1:7", r"found \U in double quotes", "in single quotes", "/"]),
    ('a: "C:\\xylo"\n', ["1:7", r"found \x in double quotes", "in single quotes"]),
    ("t: {s: ${a.b}}\n", ["1:9", 'a reference needs quotes: "${train.steps}"']),
    ("[" * 40 + "]" * 40, ["1:34", "more than 32 levels"]),
    ("a: " + "[" * 100_000, ["more than 32 levels"]),
    ("a: x\x00y\n", ["1:5", "U+0000"]),
    ("# ok\na: \x1b[31m\n", ["2:4", "U+001B"]),
]


def node(text: str) -> object:
    return parse(text, Source.from_text(text, Path("r.yaml")))


@pytest.mark.parametrize(("text", "fragments"), WRONG, ids=[text[:20] for text, _ in WRONG])
def test_a_wrong_text_is_told_with_its_place(text: str, fragments: list[str]) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        node(text)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_all_problems_of_a_text_are_told_at_once() -> None:
    with pytest.raises(InvalidRecipe) as caught:
        node("a: &x 1\nb: *x\na: !t 2\n")
    assert len(caught.value.problems) == 3


def test_a_bomb_of_aliases_is_told_once() -> None:
    with pytest.raises(InvalidRecipe) as caught:
        node("a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)))
    assert [problem.message for problem in caught.value.problems] == [
        "found the anchor '&a0'; recipes have neither anchors nor aliases"]


def test_the_caret_stands_below_the_word() -> None:
    with pytest.raises(InvalidRecipe) as caught:
        node("train:\n  steps: 1\n  steps: 2\n")
    lines = str(caught.value).splitlines()
    assert lines[1] == "     3 |   steps: 2"
    assert lines[2] == "       |   ^^^^^"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_places_count_lines_as_yaml_does(end: str) -> None:
    table = node(end.join(["a: 1", "ünï: ✓ x", "c: {d: 4}"]))
    assert isinstance(table, MappingNode)
    assert [(p.line, p.column) for p in table.key_spans.values()] == [(1, 1), (2, 1), (3, 1)]
    assert table.entries["ünï"].span.column == 6
    inner = table.entries["c"]
    assert isinstance(inner, MappingNode)
    assert (inner.key_spans["d"].column, inner.entries["d"].span.column) == (5, 8)
    assert inner.key_spans["d"].text == "c: {d: 4}"


def test_unquoted_scalars_stay_text_and_are_plain_quoted_ones_are_not() -> None:
    table = node("a: 1e-4\nb: no\nc: '5'\nd: \"x\"\ne:\nf: 695e0514\ng: |\n  long\n  text\n")
    assert isinstance(table, MappingNode)
    kinds = {key: (value.value, isinstance(value.value, PlainScalar)) for key, value in table.entries.items()
             if isinstance(value, ScalarNode)}
    assert kinds == {"a": ("1e-4", True), "b": ("no", True), "c": ("5", False), "d": ("x", False),
                     "e": ("", True), "f": ("695e0514", True), "g": ("long\ntext\n", False)}


def test_lists_and_mappings_become_tuples_and_dicts() -> None:
    table = node("a: [1, {b: c}]\n")
    assert isinstance(table, MappingNode)
    assert plain_data(table) == {"a": ("1", {"b": "c"})}


@pytest.mark.parametrize(("data", "fragments"), [
    (b"a: \xff\n", ["r.yaml:1:4", "0xff", "UTF-8"]),
    ("ä: 1\nb: ".encode() + b"\xe9\n", ["r.yaml:2:4", "0xe9"]),
    ("a: 1\n".encode("utf-16"), ["r.yaml:1:1", "UTF-8"]),
    (b"", ["no keys such as", "dbrun new"]),
    (b"# only this\n", ["no keys such as"]),
    (b"- a\n", ["1:1", "no keys such as"]),
    (b"a: " + b"x" * MAX_BYTES, ["larger than 256 KiB"]),
])
def test_a_file_that_is_no_recipe(tmp_path: Path, data: bytes, fragments: list[str]) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(data)
    with pytest.raises(InvalidRecipe) as caught:
        read_recipe_file(file)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes("﻿a: 1\n".encode())
    assert read_recipe_file(file).key_spans["a"].column == 1


def test_a_missing_file_is_looked_for_in_recipes_too_and_its_ending_makes_nothing_alike(tmp_path: Path) -> None:
    (tmp_path / "bin.yaml").write_text("a: 1")
    with pytest.raises(InvalidRecipe, match=r"mine1\.yaml; recipes in that folder: bin\.yaml$"):
        read_recipe_file(tmp_path / "mine1.yaml")
    (tmp_path / "mine2.yaml").write_text("a: 1")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine1.yaml").write_text("a: 1")
    for name in ("mine1.yaml", "mine1.yml", "mine1"):
        with pytest.raises(InvalidRecipe, match=r"did you mean '[^']*recipes/mine1\.yaml'\?$"):
            read_recipe_file(tmp_path / name)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "sks_dog.yaml").write_text("a: 1")
    with pytest.raises(InvalidRecipe, match=r"no such recipe: .*; did you mean '.*sks_dog\.yaml'"):
        read_recipe_file(tmp_path / "sks_dgo.yaml")
    with pytest.raises(InvalidRecipe, match=r"recipes in that folder: sks_dog\.yaml"):
        read_recipe_file(tmp_path / "zebra")
    with pytest.raises(InvalidRecipe, match="no recipes in"):
        read_recipe_file(tmp_path / "no" / "such.yaml")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match="is a folder"):
        read_recipe_file(tmp_path)
