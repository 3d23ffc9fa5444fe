"""What the recipe tests share: a good recipe, and a way to load a changed one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dbrun.recipe.load import LoadedRecipe, load_recipe

GOOD = """\
schema: dbrun/v1
name: dog
base: {type: sd, path: embedded}
subject:
  images: embedded:sks_dog
  instance_prompt: a photo of sks dog
  class_prompt: a photo of a dog
prior: {count: 4}
images: {resolution: 64}
adapt:
  denoiser: {type: lora, rank: 16, targets: all}
train:
  steps: 300
  learning_rate: 1e-4
export: [diffusers, peft]
"""

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
