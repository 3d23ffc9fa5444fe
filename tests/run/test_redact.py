"""Is a recipe told as it was written, with comments, parents and changes, but without places and secrets?"""

import json
from pathlib import Path

import pytest
from stub_world import go

from dbrun.recipe.load import load_recipe
from dbrun.recipe.text.spans import InvalidRecipe, Source
from dbrun.recipe.text.yaml import LOADER, parse
from dbrun.run.redact import redact_path, redact_text

TOKEN = "hf_" + "Ab3" * 11


def record(home: Path) -> dict:
    return json.loads((home / "outputs" / "stub" / "dbrun.json").read_text())


def test_text_parents_profiles_and_changes_are_told(home: Path) -> None:
    base = (home / "r.yaml").read_text()
    (home / "base.yaml").write_text(base)
    text = "# größer, as Ann wanted: 中\nextends: base.yaml\nprofiles: {ci: {train: {steps: 4}}}\nseed:   5  # lucky\n"
    (home / "r.yaml").write_text(text)
    go(home, "train.batch_size=1")
    assert record(home)["written"] == {
        "files": [{"name": "r.yaml", "text": text}, {"name": "base.yaml", "text": base}], "profiles": [],
        "overrides": ["train.batch_size=1"]}
    assert load_recipe(home / "r.yaml", (), ["ci"]).file_texts == {home / "r.yaml": text, home / "base.yaml": base}


def test_a_comment_runs_nothing_and_changes_no_exported_file(home: Path) -> None:
    first = go(home)
    (home / "r.yaml").write_text((home / "r.yaml").read_text() + "# a comment\n")
    second = go(home)
    assert first.ran and not second.ran and first.artifacts == second.artifacts


@pytest.mark.parametrize(("line", "kept"), [
    ("images: /home/jane/rex", 'images: "…/rex"'),
    ("images: /Users/Jane Doe/My Photos/rex   # two years", 'images: "…/rex"   # two years'),
    ("images: '~/rex'", 'images: "…/rex"'), ("images: ~jane/rex", 'images: "…/rex"'),
    (r"images: C:\Users\Jane\rex", 'images: "…/rex"'), ('images: "C:/Users/Jane/rex"', 'images: "…/rex"'),
    (r'images: "\\\\server\\jane\\rex"', 'images: "…/rex"'), ("images: file:///home/jane/rex/", 'images: "…/rex"'),
    ("images: //server/jane/rex", 'images: "…/rex"'),
    ("subject: {images: /home/jane/a b, x: [/home/jane/c, d/e]}", 'subject: {images: "…/a b", x: ["…/c", d/e]}'),
    ("images: >-\n  /home/jane/rex\nseed: 0", 'images: "…/rex"\nseed: 0'),
    ("# from /Users/Jane Doe/pictures, of 2024", "# from …"), (r"seed: 1 # (C:\Users\Jane\x)", "seed: 1 # (…"),
    ("# ~/x and more\nseed: 1", "# …\nseed: 1"), ("# file:///home/jane\n", "# …\n"),
    ("images: ../rex  # and/or https://x.org/a/b", "images: ../rex  # and/or https://x.org/a/b"),
    ("path: owner/name\nrevision: ~\nprompt: a dog / a cat", "path: owner/name\nrevision: ~\nprompt: a dog / a cat"),
    ("ünï: 中 🐕 x\nimages: /home/jane/中\n# ü", 'ünï: 中 🐕 x\nimages: "…/中"\n# ü'),
    ("images: /home/jane/re\"x", 'images: "…/re\\"x"')])
def test_no_place_is_told_and_all_else_is(line: str, kept: str) -> None:
    assert redact_text(line) == kept
    assert parse(kept, Source.from_text(kept, None)) is not None or kept.startswith("#"), "it is still YAML"
    assert redact_text(kept) == kept


def test_neither_the_home_folder_nor_a_secret_is_told(home: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/srv/jane doe")
    monkeypatch.setenv("MY_API_KEY", "a-very-long-key")
    text = f"# {TOKEN} a-very-long-key\nprompt: a dog in /srv/jane doe/x of a-very-long-key\n"
    assert redact_text(text) == "# [hidden] [hidden]\nprompt: a dog in ~/x of [hidden]\n"
    monkeypatch.setenv("HOME", "/")
    assert redact_text("prompt: a /b/ c") == "prompt: a /b/ c"


def test_changes_of_the_command_line_name_no_place(home: Path, monkeypatch) -> None:
    (home / "r.yaml").write_text((home / "r.yaml").read_text() + f"# {home}\n# {TOKEN}\n")
    monkeypatch.setenv("MY_API_KEY", "a-very-long-key")
    go(home, f"subject.images={home / 'pictures'}", "train={steps: 3}", "subject.class_prompt='a-very-long-key'")
    told = record(home)["written"]
    assert told["overrides"] == ["subject.images=…/pictures", "train={steps: 3}", "subject.class_prompt='[hidden]'"]
    assert record(home)["recipe"]["subject"]["class_prompt"] == "[hidden]"
    assert str(home) not in json.dumps(told) and TOKEN not in json.dumps(told)


def test_a_value_that_is_a_token_is_refused_before_it_goes_anywhere(home: Path) -> None:
    with pytest.raises(InvalidRecipe,
                       match=r"subject\.class_prompt: found what looks like a token of the Hub") as caught:
        load_recipe(home / "r.yaml", [f"subject.class_prompt=a dog {TOKEN}"])
    assert "hf auth login" in str(caught.value)


@pytest.mark.parametrize(("path", "kept"), [("a/b", "a/b"), ("/", "/"), ("~", "~"), ("embedded:sks_dog",) * 2,
                                            ("/a/b/", "…/b"), ("D:\\x\\y z", "…/y z")])
def test_only_paths_that_start_elsewhere_lose_their_folders(path: str, kept: str) -> None:
    assert redact_path(path) == kept


def test_the_quick_reader_counts_characters() -> None:
    """The places of its tokens are used to cut the text."""
    import yaml

    text = "é: 中🐕\nx: y"
    ends = [t.end_mark.index for t in yaml.scan(text, Loader=LOADER) if isinstance(t, yaml.ScalarToken)]
    assert ends == [1, 5, 7, 10]
