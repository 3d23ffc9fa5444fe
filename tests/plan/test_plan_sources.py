"""What a recipe points at fits the recipe, or the recipe's line is named."""

import json

import pytest
from fake_base import fake_base, fake_cache
from PIL import Image

from dbrun.errors import RecipeError
from dbrun.plan import sources
from dbrun.plan.sources import locate, pinned
from dbrun.recipe.load import load_recipe
from dbrun.store.store import Store

COMMIT = "c" * 40
RECIPE = """\
schema: dbrun/v1
name: x
base: {path: base}
subject:
  images: photos
  instance_prompt: a photo of sks dog
images: {resolution: 64}
adapt: {denoiser: {type: lora}}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    home = tmp_path / "home"
    fake_base(home / "base")
    (home / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(home / "photos" / "0.png")
    (home / "r.yaml").write_text(RECIPE)
    return home / "r.yaml"


def find(recipe, *overrides):
    return locate(load_recipe(recipe, overrides), Store(recipe.parent / "store"))


def test_paths_are_meant_from_where_they_are_written(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find(recipe)
    assert found.sources.base.folder == recipe.parent / "base"
    assert list(found.files.values()) == [recipe.parent / "photos" / "0.png"]
    assert find(recipe, "subject.images=home/photos").files == found.files
    with pytest.raises(RecipeError, match="no such folder"):
        find(recipe, "subject.images=photos")


def test_an_error_names_the_line_of_the_recipe(recipe):
    recipe.write_text(RECIPE.replace("images: photos", "images: fotos"))
    with pytest.raises(RecipeError) as caught:
        find(recipe)
    assert "r.yaml:5:" in str(caught.value) and "photos" in str(caught.value)
    recipe.write_text(RECIPE.replace("path: base", "path: ./bass"))
    with pytest.raises(RecipeError, match=r"r\.yaml:3:"):
        find(recipe)


def test_the_resolution_must_suit_the_base(recipe):
    with pytest.raises(RecipeError, match="multiples of 16") as caught:
        find(recipe, "images.resolution=50")
    assert "write 48 or 64" in str(caught.value)
    with pytest.raises(RecipeError, match="write 16"):
        find(recipe, "images.resolution=8")
    find(recipe, "images.resolution=48")


def test_the_objective_must_suit_the_base(recipe):
    """What a recipe leaves to the base is judged by the base's scheduler."""
    config = recipe.parent / "base" / "scheduler" / "scheduler_config.json"

    def refused(override, **scheduler):
        config.write_text(json.dumps(scheduler))
        with pytest.raises(RecipeError) as caught:
            find(recipe, *override.split("; "))
        return str(caught.value)

    assert "objective.zero_terminal_snr: found zero" in refused("objective.zero_terminal_snr=true")
    assert "→ write `high: 500`" in refused("objective.timesteps={type: window, low: 3, high: 900}",
                                            num_train_timesteps=500)
    assert "objective.prediction" in refused("objective.prediction=epsilon", prediction_type="v_prediction",
                                             rescale_betas_zero_snr=True)
    assert "divides by the SNR" in refused("objective.weighting={type: debiased}", rescale_betas_zero_snr=True)
    config.write_text(json.dumps({"prediction_type": "v_prediction"}))
    find(recipe, "objective.zero_terminal_snr=true", "objective.weighting={type: min_snr}",
         "objective.timesteps={type: window, low: 3, high: 1000}")


def test_an_unknown_base_is_judged_once_it_is_there(recipe):
    find(recipe, "base.path=owner/name", "objective.zero_terminal_snr=true")


def test_a_prompt_with_too_many_words_is_told(recipe):
    assert not find(recipe).notes
    notes = find(recipe, "subject.instance_prompt=" + "dog " * 9).notes
    assert notes[0].level == "warning" and "reads 8 tokens" in notes[0].text


def test_locating_makes_no_store(recipe):
    find(recipe)
    assert not (recipe.parent / "store").exists()


def test_a_hub_base_is_not_judged_before_it_is_fetched(recipe, monkeypatch):
    found = find(recipe, "base.path=owner/name", "images.resolution=50")
    assert found.revision == "main" and found.sources.base.folder is None and found.out_of_reach is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find(recipe, "base.path=owner/name").out_of_reach


def test_a_branch_is_pinned_once_and_remembered(recipe, tmp_path, monkeypatch):
    from dbrun.stages import hub

    asked = []
    monkeypatch.setattr(hub, "commit_of", lambda repo, revision: asked.append((repo, revision)) or COMMIT)
    store = Store(recipe.parent / "store")
    store.prepare()
    loaded = load_recipe(recipe, ["base.path=owner/name", "base.revision=v1"])
    found = pinned(loaded, locate(loaded, store), store)
    assert asked == [("owner/name", "v1")]
    assert found.sources.base.identity == f"hub:owner/name@{COMMIT}" and found.revision is None
    assert COMMIT in found.notes[0].text
    again = locate(loaded, Store(store.root))
    assert again.revision is None and again.sources.base == found.sources.base
    folder = fake_cache(tmp_path / "hub", COMMIT)
    assert locate(loaded, Store(store.root)).sources.base.folder == folder


def test_what_is_out_of_reach_is_not_asked_for(recipe, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = load_recipe(recipe, ["base.path=owner/name"])
    store = Store(recipe.parent / "store")
    found = locate(loaded, store)
    assert pinned(loaded, found, store) is found


def test_a_manifest_of_the_base_sets_the_sampler(recipe):
    (recipe.parent / "base" / "manifest.json").write_text(json.dumps({"sampling": {"steps": 9, "guidance": 3.5}}))
    assert find(recipe).sources.base.sampling.steps == 9
    assert sources.Located(find(recipe).sources).files == {}
