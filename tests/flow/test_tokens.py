"""Does a token that an error speaks of, or a recipe asks for, come to stand nowhere?"""

import os
from pathlib import Path

import pytest
from projects import Project

TOKENS = {"HF_TOKEN": "hf_" + "Ab3" * 11, "HUGGING_FACE_HUB_TOKEN": "hf_" + "Zy9" * 11, "WANDB_API_KEY": "w4" * 20,
          "GITHUB_TOKEN": "ghp_" + "k1" * 18}
CRASH = '''
import os, sys
from dbrun.stages.train import Train
def leak(self, job):
    token = os.environ["HF_TOKEN"]
    raise RuntimeError(f"401 Unauthorized: Authorization: Bearer {token}, also {os.environ['WANDB_API_KEY']}")
Train.run = leak
from dbrun.cli import main
sys.argv = ["dbrun", "run", "tiny.yaml", *sys.argv[1:]]
main()
'''


def assert_clean(*roots: Path) -> None:
    read = 0
    for root in roots:
        for path in root.rglob("*"):
            for token in TOKENS.values():
                assert token not in str(path)
                if path.is_file() and not path.is_symlink():
                    assert token.encode() not in path.read_bytes(), path
                    read += 1
    assert read > 50


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_a_crash_that_says_the_token_is_logged_without_it(project: Project, how: list[str]) -> None:
    (project.folder / "crash.py").write_text(CRASH)
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "crash.py", "train.steps=9", *how], cwd=project.folder, text=True,
                          capture_output=True, env={**os.environ, **TOKENS})
    assert done.returncode == 1 and "401 Unauthorized" in done.stderr + done.stdout
    assert not [token for token in TOKENS.values() if token in done.stdout + done.stderr]
    log = next((project.folder / ".dbrun" / "runs").glob("*/log")).read_text()
    assert "Traceback" in log and "[hidden]" in log
    assert_clean(project.folder)


def test_a_recipe_cannot_write_a_token_into_a_key(fresh: Project) -> None:
    recipe = fresh.folder / "tiny.yaml"
    for word in ("${oc.env:HF_TOKEN}", "${env:HF_TOKEN}"):
        recipe.write_text(recipe.read_text().replace("a photo of sks dog\n  class", f"{word}\n  class"))
        said = fresh.dbrun("plan", "tiny.yaml", check=2, env=TOKENS).stderr
        assert TOKENS["HF_TOKEN"] not in said and "HF_TOKEN" in said
    assert not (fresh.folder / ".dbrun").exists()
