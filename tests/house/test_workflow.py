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
from collections.abc import Callable, Mapping
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
SHORTER = (("sks_dog", "steps: 300", "steps: 2"), ("sks_dog", "count: 96", "count: 18"),
           ("sks_dog", "  guidance: 2.5 ", "  steps: 2\n  guidance: 2.5 "),
           ("sks_dog_scored", "every: 100", "every: 1"))
"""Recipe, old and new words: what makes the recipe that the workflow runs a matter of seconds, and another one fit."""


def workflow() -> dict[str, Any]:
    text = (ROOT / WORKFLOW).read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def jobs() -> dict[str, Any]:
    found: dict[str, Any] = workflow()["jobs"]
    return found


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


def carry_out(step: str, tree: Path, env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    """A step as GitHub runs it where `shell: bash` is written. env: of the step itself, its expressions filled in."""
    script = tree.parent / "step.sh"
    script.write_text(step)
    path = f"{tree.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    kept = {key: value for key, value in os.environ.items() if key not in ("DBRUN_STORE", "NO_COLOR")}
    return subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)], cwd=tree, text=True,
                          capture_output=True, env={
                              **kept, **workflow()["env"], "PATH": path, "PYTHONPATH": str(tree),
                              "GITHUB_STEP_SUMMARY": str(tree.parent / "summary.md"), **env})


def all_steps(tree: Path) -> None:
    for name, job in jobs().items():
        if name == "comment":
            continue
        for step in job["steps"]:
            if "run" in step:
                done = carry_out(step["run"], tree)
                assert done.returncode == 0, f"{step['run']}\n{done.stdout}\n{done.stderr}"
            elif step["uses"].startswith("actions/upload-artifact"):
                shutil.copytree(tree / step["with"]["path"], tree.parent / "artifacts" / step["with"]["name"])


GH = """\
import json, re, sys
from pathlib import Path
words, file = sys.argv[1:], Path(__file__).with_name("comments.json")
assert words[0] == "api"
comments = json.loads(file.read_text()) if file.exists() else []
body = [Path(word.removeprefix("body=@")).read_text() for word in words if word.startswith("body=@")]
if "--jq" in words:
    filter = words[words.index("--jq") + 1]
    author, mark = re.fullmatch(r'.*login == "(.*?)" .*startswith\\("(.*?)"\\)\\)\\) \\| \\.id', filter).groups()
    for one in comments:
        if one["author"] == author and one["body"].startswith(mark):
            print(one["id"])
elif "PATCH" in words:
    [one] = [one for one in comments if words[3].endswith(f"repos/me/dog/issues/comments/{one['id']}")]
    one["body"] = body[0]
else:
    assert words[1] == "repos/me/dog/issues/7/comments"
    comments.append({"id": len(comments) + 1, "author": "github-actions[bot]", "body": body[0]})
file.write_text(json.dumps(comments))
"""
"""GitHub's own command, as far as the workflow uses it, over comments in a file."""


def comment(runner: Path) -> list[dict[str, Any]]:
    """Carry out the job that comments, beside the artifacts of the others; all comments of the pull request."""
    job = runner / "comment"
    shutil.rmtree(job, ignore_errors=True)
    job.mkdir()
    (runner / "bin" / "gh.py").write_text(GH)
    (runner / "bin" / "gh").write_text(f'#!/bin/sh\nexec {sys.executable} {runner}/bin/gh.py "$@"\n')
    (runner / "bin" / "gh").chmod(0o755)
    for step in jobs()["comment"]["steps"]:
        if "run" not in step:
            shutil.copytree(runner / "artifacts" / step["with"]["name"], job / step["with"]["path"])
            continue
        filled = {"GH_TOKEN": "t", "REPOSITORY": "me/dog", "NUMBER": "7", "PICTURES": "https://example.org/shown"}
        assert filled.keys() == step["env"].keys()
        done = carry_out(step["run"], job, filled)
        assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads((runner / "bin" / "comments.json").read_text())
    return found


def test_a_pull_request_has_one_comment_which_is_written_again(tmp_path: Path) -> None:
    shown = tmp_path / "artifacts" / "shown"
    for folder in (shown, tmp_path / "bin"):
        folder.mkdir(parents=True)
    (shown / "plan.md").write_text("### Plan: 400 steps\n")
    (shown / "runs.md").write_text("### Runs\n")
    [first] = comment(tmp_path)
    assert "400 steps" in first["body"] and "(https://example.org/shown)" in first["body"]
    # somebody else may write the mark, too
    other = {**first, "id": 8, "author": "somebody"}
    (tmp_path / "bin" / "comments.json").write_text(json.dumps([first, other]))
    (shown / "plan.md").write_text("### Plan: 500 steps\n" + "x" * 70000)
    again, unchanged = comment(tmp_path)
    assert again["id"] == first["id"] and "500 steps" in again["body"] and "(https://" in again["body"]
    assert len(again["body"]) < 65536 and unchanged == other


def test_the_steps_that_need_a_gpu_stand_together() -> None:
    """The guide names the first and the last; without them there are still a plan and pictures."""
    steps = jobs()["run"]["steps"]
    begins = [str(step.get("run", "")).startswith("dbrun run ") for step in steps].index(True)
    ends = [step.get("name") for step in steps].index("What it did")
    left = json.dumps([*steps[:begins], *steps[ends + 1:]])
    assert "shown/plan.md" in left and "shown/sheet.png" in left and "upload-artifact" in left


def test_only_the_job_that_runs_nothing_of_a_pull_request_may_write() -> None:
    assert workflow()["permissions"] == {"contents": "read"}
    writing = {name: job for name, job in jobs().items() if "permissions" in job}
    assert {name: job["permissions"] for name, job in writing.items()} == {"comment": {"pull-requests": "write"}}
    text = json.dumps(writing["comment"])
    assert "checkout" not in text and "dbrun " not in jobs()["comment"]["steps"][1]["run"].replace("<!-- dbrun:", "")
    assert "head.repo.full_name == github.repository" in writing["comment"]["if"]
    # an expression inside a script would be code that a title or a branch's name can write
    for job in jobs().values():
        assert not any("${{" in step.get("run", "") for step in job["steps"])


@pytest.mark.slow
def test_its_steps_pass_in_order_with_the_run_made_short(copy: Path) -> None:
    for recipe, old, new in SHORTER:
        replaced(f"recipes/{recipe}.yaml", old, new)(copy)
    all_steps(copy)
    assert "install ." in (copy.parent / "installed").read_text()
    summary = (copy.parent / "summary.md").read_text(encoding="utf-8")
    assert "### Plan of sks" in summary and "| train | **RUN** |" in summary
    assert "### Runs" in summary and "**done**" in summary and "\x1b" not in summary
    shown = {path.name for path in (copy.parent / "artifacts" / "shown").iterdir()}
    assert shown == {"plan.md", "runs.md", "sheet.png", "before_after.png", "report.html"}
    [told] = comment(copy.parent)
    assert "### Plan of sks" in told["body"] and "### Runs" in told["body"]


@pytest.mark.slow
def test_its_steps_pass_in_order(copy: Path) -> None:
    all_steps(copy)


def replaced(name: str, old: str, new: str) -> Callable[[Path], object]:
    def replace(tree: Path) -> None:
        file = tree / name
        assert old in file.read_text(encoding="utf-8")
        file.write_text(file.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    return replace


@pytest.mark.parametrize(("spoil", "told"), [
    (replaced("recipes/captions.yaml", "adapt:", "adopt:"), "captions.yaml"),
    (replaced("schemas/recipe.schema.json", "2020-12", "2019-09"), "schema"),
    pytest.param(replaced("recipes/zwx_car.yaml", "embedded:zwx_car", "embedded:sks_dog"), "zwx_car.lock",
                 marks=pytest.mark.slow),
    pytest.param(replaced("recipes/sks_dog_sd15.yaml", "451f4fe1", "00000000"), "sks_dog_sd15.lock",
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
