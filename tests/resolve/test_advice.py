"""What will probably disappoint is told before a run, with what to do; what is usual is not remarked on."""

import json

import numpy as np
import pytest
from PIL import Image

from dbrun.images import photographs
from dbrun.models.base import families
from dbrun.recipe.load import load_recipe
from dbrun.resolve.sources import resolve_sources
from dbrun.store.store import Store

RECIPE = """\
schema: dbrun/v1
name: x
base: {path: embedded}
subject: {images: photos, instance_prompt: a photo of sks dog}
images: {resolution: 64}
adapt: {denoiser: {type: lora}}
train: {learning_rate: 2.0e-3}
"""
FLOW = ("base={type: flux, path: owner/name, revision: " + "a" * 40 + "}", "images.resolution=512",
        "train.learning_rate=1e-4")
HUB = "base={path: owner/name, revision: " + "a" * 40 + "}"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (96, 80), (60 * number, 90, 30)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "r.yaml").write_text(RECIPE)
    Store(tmp_path / "store").prepare()
    return tmp_path


def warnings(home, *overrides):
    resolved = resolve_sources(load_recipe(home / "r.yaml", overrides), Store(home / "store"), decode=False)
    return [note.text for note in resolved.notes if note.level == "warning"]


def test_photographs_are_not_for_the_embedded_base(home, monkeypatch):
    assert warnings(home) == []
    rng = np.random.default_rng(1)
    for number in range(2):
        noisy = rng.normal(120, 4, (90, 90, 3)).astype(np.uint8)
        Image.fromarray(noisy).save(home / "photos" / f"{number}.png")
    (told,) = warnings(home)
    assert "`subject.images` look like photographs" in told and "cartoons" in told and "base of the Hub" in told

    def measured_again(path):
        raise AssertionError(path)

    monkeypatch.setattr(photographs, "texture", measured_again)
    assert warnings(home) == [told]
    assert warnings(home, "subject.images=embedded:sks_dog") == []


def test_a_large_base_wants_other_settings_than_the_embedded_one(home):
    resolution, rate = warnings(home, HUB)
    assert "`images.resolution` is 64" in resolution and "write `resolution: 512`" in resolution
    assert "`train.learning_rate` 0.002" in rate and "write `learning_rate: 0.0001`" in rate
    assert warnings(home, HUB, "images.resolution=512", "train.learning_rate=1e-4") == []
    assert warnings(home, HUB, "images.resolution=512", "train={optimizer: {type: prodigy}, learning_rate: 1.0}") == []
    (own,) = warnings(home, HUB, "images.resolution=512", "train.learning_rate=1e-4",
                      "adapt.denoiser.learning_rate=2e-3")
    assert "adapt.denoiser.learning_rate" in own
    # bases that work on pixels may be as small as the embedded one
    assert not any("resolution" in text for text in warnings(home, HUB, "base.type=if_stage1"))


def test_one_picture_is_few(home):
    for number in range(2):
        (home / "photos" / f"{number}.png").unlink()
    (told,) = warnings(home)
    assert "`subject.images` holds one picture" in told and "three to six" in told


@pytest.mark.parametrize(("instance", "of_class", "missing"), [
    ("a photo of sks", "a photo of a dog", "'dog'"), ("a photo of sks", "[a photo of a dog, a dog in snow]", "'dog'"),
    ("sks Dogs", "a photo of a dog", None), ("an mnv picture", "[a picture of a cat, a picture of a car]", None),
    ("a photo of sks woman", "a photo of a woman", None), ("sks", "一张狗的照片", None)])
def test_an_instance_prompt_names_its_class(home, instance, of_class, missing):
    told = warnings(home, "prior={count: 2}", f"subject.instance_prompt={instance}",
                    f"subject.class_prompt={of_class}")
    assert bool(told) == bool(missing)
    assert missing is None or "`subject.instance_prompt` 'a photo of sks' lacks the class's word" in told[0]
    assert missing is None or missing in told[0]


@pytest.mark.parametrize("word", ["objective.noise_offset=0.05", "objective.pyramid_noise={discount: 0.5}"])
def test_noise_that_is_not_white_is_not_for_flow_matching(home, word):
    (told,) = warnings(home, *FLOW, word)
    assert f"`{word.split('=')[0]}` makes noise that a base of flow matching never meets" in told
    assert warnings(home, *FLOW) == warnings(home, HUB, *FLOW[1:], word) == []


def test_a_distilled_base_is_named_before_it_is_fetched(home):
    (told,) = warnings(home, *FLOW, "base.path=black-forest-labs/FLUX.1-schnell")
    assert "distilled to draw in 4 steps" in told and "train black-forest-labs/FLUX.1-dev" in told


@pytest.mark.parametrize(("name", "path", "train"), [
    ("flux", "black-forest-labs/FLUX.1-schnell", "black-forest-labs/FLUX.1-dev"),
    ("flux2_klein", "black-forest-labs/FLUX.2-klein-9B", "black-forest-labs/FLUX.2-klein-base-9B"),
    ("z_image", "Tongyi-MAI/Z-Image-Turbo", "Tongyi-MAI/Z-Image"),
    ("qwen_image", "someone/Qwen-Image-Lightning", "Qwen/Qwen-Image-2512"),
    ("krea2", "krea/Krea-2-Turbo", "krea/Krea-2-Raw")])
def test_every_family_names_the_base_to_train_instead_of_its_distilled_one(name, path, train):
    family = families()[name]
    told = family.distillation_warning(None, path)
    assert told is not None and "distilled to" in told and f"train {train}" in told
    assert family.distillation_warning(None, train) is None


@pytest.mark.parametrize("name", ["flux2_klein", "krea2"])
@pytest.mark.parametrize("distilled", [True, False])
def test_a_pipeline_says_itself_that_it_is_distilled(tmp_path, name, distilled):
    (tmp_path / "model_index.json").write_text(json.dumps({"is_distilled": distilled}))
    assert (families()[name].distillation_warning(tmp_path, "my/turbo") is not None) is distilled


@pytest.mark.parametrize(("guidance", "dynamic", "distilled"), [(False, False, True), (True, True, False),
                                                                (False, True, False), (True, False, False)])
def test_a_distilled_base_is_known_by_its_configs_whatever_its_name(tmp_path, guidance, dynamic, distilled):
    for name, file, config in (("transformer", "config", {"guidance_embeds": guidance}),
                               ("scheduler", "scheduler_config", {"use_dynamic_shifting": dynamic})):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{file}.json").write_text(json.dumps(config))
    assert (families()["flux"].distillation_warning(tmp_path, "my/base") is not None) is distilled


@pytest.mark.parametrize(("shift", "path", "distilled"), [
    (3.0, "my/base", True), (6.0, "my/base", False), (3.0, "ostris/Z-Image-De-Turbo", False)])
def test_a_turbo_of_z_image_is_known_by_its_shift_unless_it_was_undone(tmp_path, shift, path, distilled):
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"shift": shift}))
    assert (families()["z_image"].distillation_warning(tmp_path, path) is not None) is distilled


@pytest.mark.parametrize(("family", "path", "named"), [
    ("sd3", "stabilityai/stable-diffusion-3.5-large-turbo", "train stabilityai/stable-diffusion-3.5-large,"),
    ("sd3", "tensorart/stable-diffusion-3.5-medium-turbo", "train stabilityai/stable-diffusion-3.5-medium,"),
    ("sd3", "stabilityai/stable-diffusion-3.5-large", None), ("chroma", "lodestones/Chroma1-HD", None),
    ("chroma", "lodestones/Chroma1-Flash", "train lodestones/Chroma1-HD")])
def test_a_distilled_base_of_the_same_configs_is_known_by_its_name(tmp_path, family, path, named):
    told = [families()[family].distillation_warning(folder, path) for folder in (None, tmp_path)]
    assert all(named in text if named else text is None for text in told)
