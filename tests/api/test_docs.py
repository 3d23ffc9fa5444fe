"""The examples of the guide run as they stand, and a user's type checker finds nothing wrong with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from projects import RECIPE, lay_out

import dbrun
from dbrun.recipe.new import StarterRequest, starter_recipe

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / ".github" / "docs" / "python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> str:
    found = BLOCK.findall(GUIDE.read_text(encoding="utf-8"))
    assert len(found) >= 6
    return "\n\n".join(found)


def test_every_name_of_the_guide_is_public() -> None:
    compile(examples(), str(GUIDE), "exec")
    names = set(re.findall(r"\bdbrun\.([A-Za-z]\w*)", examples()))
    assert {"run", "plan", "validate", "sample", "show", "runs", "Run", "Cancelled"} <= names
    assert names - {"events"} <= set(dbrun.__all__)


def test_what_the_guide_changes_fits_the_recipe_that_dbrun_new_writes(tmp_path: Path) -> None:
    recipe = tmp_path / "dog.yaml"
    recipe.write_text(starter_recipe(StarterRequest("dog")), encoding="utf-8")
    changes = {word for word in re.findall(r'"([a-z_.]+=[^"]+)"', examples()) if "stepz" not in word}
    assert "train.steps=4" in changes
    for change in changes:
        assert dbrun.validate(recipe, change).problems == (), change
    data = {"extends": "dog.yaml", "name": "first", "train": {"steps": 4}}
    assert dbrun.validate(data, folder=tmp_path).problems == ()


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out(tmp_path)
    small = RECIPE.replace("name: tiny", "name: dog").replace("export: [diffusers, peft]", "export: [diffusers]")
    (tmp_path / "dog.yaml").write_text(small)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBRUN_STORE", raising=False)
    exec(compile(examples(), str(GUIDE), "exec"), {"__name__": "guide"})
    said = capsys.readouterr().out
    for words in ("outputs/dog", "outputs/first", "outputs/second", "did you mean 'train.steps'?", "preprocess hit",
                  "2/6", "cancelled", "grid.png", "first-kohya.safetensors", "both.safetensors", "done {"):
        assert words in said, f"{words!r} is not in:\n{said}"
    assert {run.name for run in dbrun.runs()} == {"dog"}


@pytest.mark.slow
def test_mypy_finds_nothing_in_a_users_script(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="needs `.[lint]`")
    script = tmp_path / "script.py"
    wrong = "dbrun.run(3)\n"
    script.write_text(examples() + "\n" + wrong)
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"),
                           "--config-file", str(ROOT / "pyproject.toml"), str(script)], cwd=tmp_path,
                          env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and f"script.py:{len(script.read_text().splitlines())}: error: Argument 1" in lines[0], lines
