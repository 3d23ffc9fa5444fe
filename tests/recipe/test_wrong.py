"""Is each of many wrong recipes told in exactly these words?

`PYTHONPATH=tests python tests/recipe/test_wrong.py` writes them anew.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
from wrong_recipes import CHANGED, GOOD, WORDS

from dbrun.recipe.load import load_recipe
from dbrun.recipe.text.spans import InvalidRecipe

TOLD = Path(__file__).parent / "wrong"

def told(name: str) -> str:
    """What is said of a wrong recipe, in a folder of its own."""
    old, new = CHANGED.get(name, ("", ""))
    assert old in GOOD, name
    Path("r.yaml").write_text(GOOD.replace(old, new, 1))
    try:
        load_recipe(Path("r.yaml"), [WORDS[name]] if name in WORDS else [])
    except InvalidRecipe as problems:
        return f"{problems}\n"
    return "nothing\n"


def test_there_are_sixty_and_each_has_its_words() -> None:
    assert len({*CHANGED, *WORDS}) >= 60
    assert {p.stem for p in TOLD.iterdir()} == {*CHANGED, *WORDS}


@pytest.mark.parametrize("name", [*CHANGED, *WORDS])
def test_a_wrong_recipe_is_told_in_exactly_these_words(name: str, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOPE", raising=False)
    assert told(name) == (TOLD / f"{name}.txt").read_text()


if __name__ == "__main__":
    TOLD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for known in (*CHANGED, *WORDS):
            (TOLD / f"{known}.txt").write_text(told(known))
    sys.stdout.write(f"{len({*CHANGED, *WORDS})} written to {TOLD}\n")
