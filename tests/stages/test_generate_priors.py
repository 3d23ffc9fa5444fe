"""Is every class image an item with an address of its own, and is a flat one refused?"""

import json

import pytest
from PIL import Image, ImageDraw
from representatives import cases

from dbrun.errors import Interrupted, StageFailed
from dbrun.models.sd import StableDiffusionModel
from dbrun.stages.base import stages
from dbrun.stages.generate_priors import MAX_ATTEMPTS, blank_reason
from dbrun.stages.sources import Numerics

STAGE = "generate-priors"


@pytest.fixture
def loaded(bench, recipe):
    bench.run("load", recipe())
    return bench


def test_it_is_wanted_only_with_priors(recipe) -> None:
    assert stages()[STAGE].applies_to(recipe()) and not stages()[STAGE].applies_to(recipe(prior=None))


def test_more_class_images_make_only_the_new_ones(loaded, content, recipe) -> None:
    two = content(loaded.run(STAGE, recipe()).path)
    assert len(loaded.items.made) == 2 and json.loads(two["priors.json"]) == {"count": 2, "prompt": "a photo of a dog"}
    three = content(loaded.run(STAGE, recipe(prior={"count": 3})).path)
    assert len(loaded.items.made) == 3
    assert three["00000.png"] == two["00000.png"] and three["00001.png"] == two["00001.png"]
    assert len({three[f"{i:05d}.png"] for i in range(3)}) == 3


def test_a_picture_does_not_depend_on_what_was_drawn_before(loaded, tmp_path, content, recipe) -> None:
    both = content(loaded.run(STAGE, recipe()).path)
    first = next(p for p in loaded.items.home.iterdir() if (p / "picture.png").read_bytes() == both["00000.png"])
    (first / "picture.png").rename(tmp_path / "kept.png")
    first.rmdir()
    assert content(loaded.run(STAGE, recipe()).path) == both


@pytest.mark.parametrize("change", cases([
    {"subject": {"class_prompt": "a photo of a cat"}}, {"prior": {"steps": 3}}, {"prior": {"guidance": 3.0}},
    {"images": {"resolution": 16}}, {"seed": 1}, {"train": {"precision": "bf16"}},
    {"prior": {"precision": "bf16"}}], 0, 3, 4, 5, 6))
def test_everything_that_makes_a_picture_is_in_its_key(loaded, change, content, recipe) -> None:
    before = content(loaded.run(STAGE, recipe()).path)
    after = content(loaded.run(STAGE, recipe(**change)).path)
    assert len(loaded.items.made) == 4 and before["00000.png"] != after["00000.png"]


def test_pictures_have_a_precision_of_their_own_or_that_of_training(loaded, content, recipe) -> None:
    half = content(loaded.run(STAGE, recipe(train={"precision": "bf16"})).path)
    assert content(loaded.run(STAGE, recipe(prior={"precision": "bf16"})).path) == half
    assert len(loaded.items.made) == 2, "they are the same pictures"
    whole = content(loaded.run(STAGE, recipe(train={"precision": "bf16"}, prior={"precision": "fp32"})).path)
    assert whole == content(loaded.run(STAGE, recipe()).path) != half
    assert len(loaded.items.made) == 4


def test_several_prompts_are_taken_in_turn_and_one_of_a_list_is_that_one(loaded, content, recipe) -> None:
    dog, snow = "a photo of a dog", "a dog in the snow"
    one, many = recipe(prior={"count": 3}), recipe(prior={"count": 3}, subject={"class_prompt": (dog, snow)})
    plain, turned = (content(loaded.run(STAGE, chosen).path) for chosen in (one, many))
    assert len(loaded.items.made) == 4, "only the second picture shows another prompt"
    assert [plain[f"{i:05d}.png"] == turned[f"{i:05d}.png"] for i in range(3)] == [True, False, True]
    assert content(loaded.run(STAGE, recipe(prior={"count": 3}, subject={"class_prompt": (dog,)})).path) == plain


@pytest.mark.parametrize("change", [{"name": "other"}, {"prior": {"weight": 0.5}}, {"train": {"steps": 3}}])
def test_what_makes_no_difference_makes_nothing_again(loaded, change, recipe) -> None:
    loaded.run(STAGE, recipe())
    loaded.run(STAGE, recipe(**change))
    assert len(loaded.items.made) == 2


def dog() -> Image.Image:
    picture = Image.new("RGB", (32, 32), (90, 120, 200))
    ImageDraw.Draw(picture).ellipse((8, 8, 24, 24), fill=(150, 80, 30))
    return picture


@pytest.mark.parametrize(("picture", "why"), [
    (Image.new("RGB", (32, 32)), "black"), (Image.new("RGB", (32, 32), (10, 9, 8)), "black"),
    (Image.new("RGB", (32, 32), (200, 100, 30)), "of one colour"),
    (Image.new("RGB", (32, 32), "white"), "of one colour"),
    (dog(), "")])
def test_black_and_flat_pictures_are_refused(picture, why) -> None:
    assert blank_reason(picture) == why


def test_a_refused_picture_is_drawn_again_from_another_seed(loaded, monkeypatch, recipe) -> None:
    blocks = []

    def generate(self, conditions, seeds, **settings):
        blocks.append(seeds)
        black = Image.new("RGB", (32, 32))
        # the second picture is black at first, and the third twice
        return [dog(), dog() if len(blocks) > 1 else black, dog() if len(blocks) > 2 else black, dog()]
    monkeypatch.setattr(StableDiffusionModel, "generate_block", generate)
    loaded.run(STAGE, recipe(prior={"count": 4}))
    assert len(blocks) == 3, "a block is drawn once for each attempt"
    assert len({seed for seeds in blocks for seed in seeds}) == 12


def test_a_picture_drawn_again_has_the_bytes_that_it_has_among_others(loaded, monkeypatch, content, recipe) -> None:
    plain = StableDiffusionModel.generate_block
    refused: list[int] = []

    def generate(self, conditions, seeds, **settings):
        pictures = plain(self, conditions, seeds, **settings)
        refused.append(1)
        if len(refused) == 1:
            pictures[1] = Image.new("RGB", (32, 32))
        return pictures
    monkeypatch.setattr(StableDiffusionModel, "generate_block", generate)
    four = content(loaded.run(STAGE, recipe(prior={"count": 4})).path)
    loaded.items.made.clear()
    refused.clear()
    for item in loaded.items.home.iterdir():
        (item / "picture.png").unlink()
        item.rmdir()
    two = content(loaded.run(STAGE, recipe(prior={"count": 2})).path)
    assert [two[name] == four[name] for name in ("00000.png", "00001.png")] == [True, True]


def test_a_base_that_draws_only_black_ends_with_clear_words(loaded, monkeypatch, recipe) -> None:
    calls = []
    monkeypatch.setattr(StableDiffusionModel, "generate_block",
                        lambda *a, **k: calls.append(1) or [Image.new("RGB", (32, 32))] * 4)
    with pytest.raises(StageFailed, match="black") as caught:
        loaded.run(STAGE, recipe())
    assert len(calls) == MAX_ATTEMPTS and "prior.precision" in str(caught.value)


@pytest.mark.parametrize(("when", "kept"), [("after", 4), ("within", 0)])
def test_a_signal_stops_after_a_sampler_step_and_keeps_whole_blocks(loaded, monkeypatch, recipe, when, kept) -> None:
    plain = StableDiffusionModel.generate_block

    def generate(self, *a, **k):
        loaded.signum = 15 if when == "within" else 0
        pictures = plain(self, *a, **k)
        loaded.signum = 15
        return pictures
    monkeypatch.setattr(StableDiffusionModel, "generate_block", generate)
    with pytest.raises(Interrupted):
        loaded.run(STAGE, recipe(prior={"count": 6}))
    assert len(loaded.items.made) == kept


def test_the_items_that_are_foretold_are_those_that_are_made(loaded, recipe) -> None:
    chosen, stage = recipe(prior={"count": 3}), stages()[STAGE]
    keys = stage.item_keys(stage.params(chosen, loaded.sources(chosen)), {"load": loaded.artifacts["load"].digest},
                           Numerics("cpu", 1))
    loaded.run(STAGE, chosen)
    assert loaded.items.made == list(map(str, keys)) and len(keys) == 3
