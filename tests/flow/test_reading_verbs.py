"""Does every verb that reads say in its JSON which version of it that is, and `ls` and `runs` the same of a run?"""

from __future__ import annotations

import json

import pytest
import typer
from projects import Project

from dbrun.cli.verbs import app_for
from dbrun.recipe.load import load_recipe
from dbrun.stages.base import stages

DO = {"run", "stage", "submit", "evaluate"}
"""Verbs that compute: `--json` writes what happens, a line each, and of `evaluate` the scores."""
ADAPTER = "outputs/tiny/pytorch_lora_weights.safetensors"
WORDS = {"plan": ["tiny.yaml"], "status": ["tiny.yaml"], "explain": ["train", "tiny.yaml"], "graph": ["tiny.yaml"],
         "lock": ["tiny.yaml"], "runs": [], "logs": [], "diff": ["tiny", "tiny"], "doctor": [],
         "validate": ["tiny.yaml"], "migrate": ["tiny.yaml"], "show": [ADAPTER], "ls": [], "du": [], "verify": [],
         "gc": ["--dry-run"], "jobs": ["tiny.yaml"]}
MORE = [["plan", "tiny.yaml", "--pictures"], ["plan", "tiny.yaml", "--sweep", "seed=0,1"],
        ["run", "tiny.yaml", "--dry-run"], ["run", "tiny.yaml", "--sweep", "seed=0,1", "--dry-run"]]


def test_every_verb_with_json_is_tried_here() -> None:
    commands = typer.main.get_group(app_for([])).commands
    speaking = {name for name, command in commands.items() if any("--json" in param.opts for param in command.params)}
    assert speaking - DO == set(WORDS)


@pytest.mark.parametrize("words", [*([verb, *words] for verb, words in WORDS.items()), *MORE], ids=" ".join)
def test_it_says_its_version(project: Project, words: list[str]) -> None:
    done = project.dbrun(*words, "--json", check=None)
    found = json.loads(done.stdout)
    assert found["format_version"] == 1 and next(iter(found)) in ("format_version", "file"), done.stderr


def test_what_is_listed_has_a_size_and_a_story(project: Project) -> None:
    recipe = load_recipe(project.folder / "tiny.yaml").recipe
    every = sum(stage.applies_to(recipe) for stage in stages().values())
    project.dbrun("run", "tiny.yaml", "name=other")
    other, tiny = json.loads(project.dbrun("runs", "--json").stdout)["runs"]
    assert (tiny["name"], tiny["state"], tiny["pinned"], tiny["last_event"]["ran"]) == ("tiny", "done", False, every)
    assert tiny["bytes"] > 100_000 and (other["last_event"]["ran"], other["last_event"]["reused"]) == (0, every)
    assert json.loads(project.dbrun("ls", "--json").stdout)["runs"] == [other, tiny]
    project.dbrun("pin", "tiny")
    _, _, row = project.dbrun("ls").stdout.splitlines()
    assert tiny["id"] in row and f"pinned; {every} of {every} ran, " in row and "iB" in row
    done = project.dbrun("runs", "-n", "1")
    assert other["id"] in done.stdout and tiny["id"] not in done.stdout
    assert "and 1 earlier run; `dbrun ls` lists all" in done.stderr
    assert tiny["id"] in project.dbrun("runs", "tiny").stdout
