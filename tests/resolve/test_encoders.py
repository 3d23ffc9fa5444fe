"""Are the encoders of scores found by content, told where they are missing, fetched by a run, and locked?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_base import fake_base
from local_hub import COMMIT, RepoHub, ask_here, serving
from PIL import Image
from stub_world import RECIPE

from dbrun.errors import NotFetched, RecipeError
from dbrun.recipe.load import LoadedRecipe, load_recipe
from dbrun.recipe.schema.scoring import ScoreEncoder
from dbrun.resolve.encoders import fetch_encoders, find_encoder
from dbrun.resolve.lock import drift, write_lock
from dbrun.resolve.sources import resolve_sources
from dbrun.store.store import Store

HUB_ENCODER = ScoreEncoder(path="owner/name", revision=COMMIT)


def write_encoder(folder: Path) -> Path:
    """The files of a CLIP as `plan` sees them, which reads no weights; beside them what no score depends on."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "clip"}')
    for name in ("preprocessor_config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin", "README.md"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    fake_base(tmp_path / "base")
    write_encoder(tmp_path / "clip")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (64, 64), (40, 9, 9)).save(tmp_path / "pictures" / "0.png")
    text = RECIPE.replace("path: embedded", "path: base").replace("train: {", "train: {candidates: {every: 2}, ")
    (tmp_path / "r.yaml").write_text(f"{text}evaluate: {{clip: {{path: clip}}}}\nselect: {{}}\n")
    return tmp_path / "r.yaml"


def test_an_encoder_is_what_its_files_hold_wherever_it_lies(recipe: Path) -> None:
    store = Store(Path("store"))
    found = find_encoder(ScoreEncoder(path="clip"), "clip", Path(), store).source
    assert list(found) == ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"]
    Path("clip").rename("elsewhere")
    assert find_encoder(ScoreEncoder(path="elsewhere"), "clip", Path(), store).source == found
    with pytest.raises(RecipeError, match="is no folder here"):
        find_encoder(ScoreEncoder(path="clip"), "clip", Path(), store)
    with pytest.raises(RecipeError, match="expected 'dinov2'"):
        find_encoder(ScoreEncoder(path="elsewhere"), "dino", Path(), store)
    with pytest.raises(RecipeError) as caught:
        find_encoder(ScoreEncoder(path="owner/name"), "clip", Path(), store)
    assert "write its 40-digit commit as `revision`" in (caught.value.fix or "")


def test_one_of_the_hub_is_fetched_by_a_run_and_told_by_a_plan(recipe: Path, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(Path("store"))
    text = recipe.read_text().replace("clip: {path: clip}", f"clip: {{path: owner/name, revision: {COMMIT}}}")
    recipe.write_text(text)
    with serving(RepoHub(tmp_path / "clip")) as hub:
        ask_here(hub, tmp_path / "cache", monkeypatch)
        with pytest.raises(NotFetched) as caught:
            find_encoder(HUB_ENCODER, "clip", Path(), store)
        assert caught.value.fix == "`dbrun run` fetches it"
        fetch_encoders(load_recipe(recipe), store, lambda event: None)
        assert set(hub.names) == {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"}
        hub.sent.clear()
        fetch_encoders(load_recipe(recipe), store, lambda event: None)
        assert not hub.sent
    local = find_encoder(ScoreEncoder(path="clip"), "clip", Path(), store).source
    assert find_encoder(HUB_ENCODER, "clip", Path(), store).source == local


def test_the_lock_holds_the_files_of_encoders(recipe: Path) -> None:
    def found() -> tuple[LoadedRecipe, object]:
        loaded = load_recipe(recipe)
        return loaded, resolve_sources(loaded, Store(Path("store")))

    target, _ = write_lock(*found())
    locked = json.loads(target.read_text())["encoders"]
    assert set(locked) == {"evaluate.clip", "select.clip"} and drift(*found()) == []
    Path("clip/model.safetensors").write_text("others")
    assert drift(*found()) == ["evaluate.clip: model.safetensors differs", "select.clip: model.safetensors differs"]
