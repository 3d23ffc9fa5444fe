"""The API reads, checks and plans recipes from files, data and text, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import dbrun
from dbrun.recipe.new import StarterRequest, starter_recipe
from dbrun.recipe.text.from_data import recipe_text

DATA = {"schema": "dbrun/v1", "name": "dog", "base": {"path": "embedded"},
        "subject": {"images": "embedded:sks_dog", "instance_prompt": "a photo of sks dog",
                    "class_prompt": "a photo of a dog"},
        "prior": {"count": 2}, "images": {"resolution": 64}, "adapt": {"denoiser": {"type": "lora", "rank": 4}},
        "train": {"steps": 4, "learning_rate": 1e-5, "ema": None}, "export": ("diffusers", "peft"), "device": "cpu"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBRUN_STORE", raising=False)
    return tmp_path


def test_importing_it_imports_nothing_else() -> None:
    program = ("import sys, dbrun\nassert not {'pydantic', 'yaml', 'torch', 'typer'} & set(sys.modules)\n"
               "from dbrun import run, plan, Recipe\nimport dbrun.run.runner, dbrun.plan.planner\n"
               "assert callable(dbrun.run) and callable(dbrun.plan) and 'torch' not in sys.modules\n"
               "assert set(dbrun.__all__) <= set(dir(dbrun))\n"
               "assert all(hasattr(dbrun, name) for name in dbrun.__all__) and 'torch' not in sys.modules\n")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_data_a_file_and_a_recipe_have_one_plan(here: Path) -> None:
    (here / "dog.yaml").write_text(recipe_text(DATA))
    by_file = dbrun.plan("dog.yaml", "seed=3")
    assert [stage.name for stage in by_file.stages][-1] == "export" and by_file.has_pending
    assert dbrun.plan(DATA, "seed=3") == by_file
    recipe = dbrun.validate(DATA, "seed=3").recipe
    assert recipe is not None and recipe.seed == 3 and dbrun.plan(recipe) == by_file
    assert not (here / ".dbrun").exists(), "a plan writes nothing"


def test_every_value_of_data_keeps_its_type() -> None:
    values = {"text": "400", "yes": "yes", "small": 1e-5, "none": None, "flag": True, "path": Path("a/b"),
              "list": (1, "x"), "same": [DATA["prior"], DATA["prior"]], "long": "word " * 60}
    read = yaml.safe_load(recipe_text(values))
    assert read == {**values, "path": "a/b", "list": [1, "x"]}


@pytest.mark.parametrize(("data", "message"), [
    ({"train": {"steps": object}}, "train.steps: found <class 'object'> of the type type, allowed: text, numbers"),
    ({"train": {3: 4}}, "train: found 3 of the type int as a key, allowed: text")])
def test_a_value_that_no_recipe_holds_is_told(data: dict[str, object], message: str) -> None:
    with pytest.raises(dbrun.RecipeError, match=message):
        dbrun.plan(data)
    assert message in dbrun.validate(data).problems[0].message


def test_a_wrong_key_of_data_is_told_with_its_line() -> None:
    wrong = {**DATA, "train": {"stepz": 4, "steps": "4"}}
    problems = dbrun.validate(wrong, alone=True).problems
    assert [problem.key for problem in problems] == ["train.stepz", "train.steps"]
    assert str(problems[0]).splitlines()[1].endswith("|   stepz: 4")
    assert str(problems[0]).startswith("<recipe>:")
    with pytest.raises(dbrun.RecipeError, match="in quotes"):
        dbrun.plan(wrong)


def test_paths_of_data_start_at_the_folder(here: Path) -> None:
    (here / "photos").mkdir()
    data = {**DATA, "subject": {**DATA["subject"], "images": "photos"}}
    (here / "below").mkdir()
    assert "no pictures" in dbrun.validate(data).problems[0].message
    assert "photos" in dbrun.validate(data, folder=here / "below").problems[0].message
    again = dbrun.validate(DATA, "subject.images=photos", folder=here)
    assert "no pictures" in again.problems[0].message


def test_a_check_has_json_with_a_version(here: Path) -> None:
    (here / "dog.yaml").write_text(starter_recipe(StarterRequest("dog")))
    document = json.loads(json.dumps(dbrun.validate("dog.yaml", "train.steps=x").to_json()))
    assert document["format_version"] == 1 and not document["valid"]
    assert document["problems"][0]["key"] == "train.steps"


def test_without_runs_the_list_is_empty(here: Path) -> None:
    assert dbrun.runs() == dbrun.runs("dog", store=here / "elsewhere") == []
