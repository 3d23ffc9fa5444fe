"""Does the workflow that checks recipes do what it says, and do the locks that it goes by hold?

Its steps are carried out in order, as they are written, in a fresh copy of the repository; only `pip` is another.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from shipped_recipes import RECIPES

from dbrun.recipe.load import load_recipe
from dbrun.resolve.lock import drift, lock_contents, lock_path
from dbrun.resolve.sources import ResolvedSources, resolve_sources
from dbrun.store.store import Store

ROOT = Path(__file__).parents[2]
WORKFLOW = ".github/workflows/recipes.yml"
SHORTER = {"steps: 300": "steps: 2", "count: 96": "count: 18", "  guidance: 2.5 ": "  steps: 2\n  guidance: 2.5 "}
"""What makes the recipe that the workflow runs a matter of seconds."""


def jobs() -> dict[str, Any]:
    return yaml.safe_load((ROOT / WORKFLOW).read_text(encoding="utf-8"))["jobs"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository as a checkout has it, and commands that stand for those of a fresh machine."""
    tree = tmp_path / "tree"
    for name in ("dbrun", "recipes", "schemas"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", ".dbrun", "outputs"))
    commands = tmp_path / "bin"
    commands.mkdir()
    dbrun = f'exec {sys.executable} -m dbrun "$@"'
    for name, does in (("pip", f'echo "$@" >> {tmp_path}/installed'), ("dbrun", dbrun)):
        (commands / name).write_text(f"#!/bin/sh\n{does}\n")
        (commands / name).chmod(0o755)
    return tree


def carry_out(step: str, tree: Path) -> subprocess.CompletedProcess[str]:
    """A step as GitHub runs it: `bash -e` on a file."""
    script = tree.parent / "step.sh"
    script.write_text(step)
    path = f"{tree.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {key: value for key, value in os.environ.items() if key != "DBRUN_STORE"}
    return subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)], cwd=tree, text=True,
                          capture_output=True, env={**env, "PATH": path, "PYTHONPATH": str(tree),
                               "GITHUB_STEP_SUMMARY": str(tree.parent / "summary.md")})


def all_steps(tree: Path) -> None:
    for job in jobs().values():
        for step in job["steps"]:
            if "run" in step:
                done = carry_out(step["run"], tree)
                assert done.returncode == 0, f"{step['run']}\n{done.stdout}\n{done.stderr}"
            elif step["uses"].startswith("actions/upload-artifact"):
                for pattern in step["with"]["path"].split():
                    assert list(tree.glob(pattern)), f"nothing to upload at {pattern}"


@pytest.mark.slow
def test_its_steps_pass_in_order_with_the_run_made_short(copy: Path) -> None:
    recipe = copy / "recipes" / "sks_dog.yaml"
    text = recipe.read_text(encoding="utf-8")
    for old, new in SHORTER.items():
        assert old in text
        text = text.replace(old, new, 1)
    recipe.write_text(text, encoding="utf-8")
    all_steps(copy)
    assert "install ." in (copy.parent / "installed").read_text()
    summary = (copy.parent / "summary.md").read_text(encoding="utf-8")
    assert "### Plan of sks" in summary and "| train | **RUN** |" in summary
    assert "### Runs" in summary and "**done**" in summary


@pytest.mark.slow
def test_its_steps_pass_in_order(copy: Path) -> None:
    all_steps(copy)


def spoilt(name: str, old: str, new: str) -> Callable[[Path], object]:
    def spoil(tree: Path) -> None:
        file = tree / name
        assert old in file.read_text(encoding="utf-8")
        file.write_text(file.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    return spoil


@pytest.mark.parametrize(("spoil", "told"), [
    (spoilt("recipes/captions.yaml", "adapt:", "adopt:"), "captions.yaml"),
    (spoilt("schemas/recipe.schema.json", "2020-12", "2019-09"), "schema"),
    pytest.param(spoilt("recipes/zwx_car.yaml", "embedded:zwx_car", "embedded:sks_dog"), "zwx_car.lock",
                 marks=pytest.mark.slow),
    pytest.param(spoilt("recipes/sks_dog_sd15.yaml", "451f4fe1", "00000000"), "sks_dog_sd15.lock",
                 marks=pytest.mark.slow),
], ids=["a wrong recipe", "an old schema", "other pictures", "another commit"])
def test_its_check_finds_what_is_wrong(copy: Path, spoil: Callable[[Path], object], told: str) -> None:
    spoil(copy)
    for step in jobs()["check"]["steps"]:
        if "run" in step and (done := carry_out(step["run"], copy)).returncode:
            assert told in done.stdout + done.stderr
            return
    pytest.fail("every step passed")


def found(recipe: Path, store: Path) -> ResolvedSources:
    return resolve_sources(load_recipe(recipe), Store(store))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_has_a_lock_and_it_holds(recipe: Path, tmp_path: Path) -> None:
    assert drift(load_recipe(recipe), found(recipe, tmp_path)) == [], f"run: dbrun lock recipes/{recipe.name}"
    written = json.dumps(lock_contents(found(recipe, tmp_path)), indent=1, ensure_ascii=False) + "\n"
    assert lock_path(recipe).read_text(encoding="utf-8") == written


def test_a_lock_says_nothing_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine has other versions, devices and folders; a lock is of contents alone."""
    import importlib.metadata

    monkeypatch.setattr(importlib.metadata, "version", lambda name: "999.9.9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for recipe in RECIPES:
        text = lock_path(recipe).read_text(encoding="utf-8")
        assert json.loads(text) == lock_contents(found(recipe, tmp_path / "store"))
        assert not re.search(r"\btorch|\d+\.\d+\.\d+|/root|/home|cuda|cpu", text)
