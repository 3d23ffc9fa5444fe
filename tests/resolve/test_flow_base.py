"""Is what means nothing for the very base of flow matching refused, when the base is here?"""

import json
from pathlib import Path

import pytest
from PIL import Image

from dbrun.models.base import families
from dbrun.recipe.load import load_recipe
from dbrun.recipe.text.spans import InvalidRecipe
from dbrun.resolve.sources import resolve_sources
from dbrun.store.store import Store

RECIPE = """\
schema: dbrun/v1
name: x
base: {type: flux, path: base}
subject: {images: photos, instance_prompt: a photo of sks dog}
images: {resolution: 32}
adapt: {denoiser: {type: lora}}
train: {guidance: 1.0}
objective: {timesteps: {type: logit_normal, shift: resolution}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    families()["flux"].write_tiny_base(tmp_path / "base")
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.new("RGB", (40, 32), (60 * number, 90, 30)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def change(file: Path, **settings: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_settings_that_this_base_has_no_use_for_are_refused_at_their_place(home: Path) -> None:
    resolve_sources(load_recipe(home / "r.yaml"), Store(home / "store"), decode=False)
    change(home / "base" / "transformer" / "config.json", guidance_embeds=False)
    change(home / "base" / "scheduler" / "scheduler_config.json", use_dynamic_shifting=False)
    with pytest.raises(InvalidRecipe) as caught:
        resolve_sources(load_recipe(home / "r.yaml"), Store(home / "store"), decode=False)
    told = str(caught.value)
    assert "r.yaml:7:19 train.guidance: found 1, but the denoiser of this base takes no guidance scale" in told
    assert "r.yaml:8:" in told and "found 'resolution', but the scheduler of this base has the same shift" in told
