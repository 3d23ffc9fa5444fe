"""What the recipe tests share: a good recipe, and a way to load a changed one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from wrong_recipes import GOOD

from dbrun.recipe.load import LoadedRecipe, load_recipe

Load = Callable[..., LoadedRecipe]


@pytest.fixture
def good() -> str:
    return GOOD


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """`load(text, *overrides)`: the recipe in a file `r.yaml` of the current folder, a fresh one."""
    monkeypatch.chdir(tmp_path)

    def loading(text: str | bytes = GOOD, *overrides: str) -> LoadedRecipe:
        data = text.encode() if isinstance(text, str) else text
        Path("r.yaml").write_bytes(data)
        return load_recipe(Path("r.yaml"), overrides)

    return loading
