"""Does a starter recipe work as it stands, for every base, card and number of pictures?"""

from __future__ import annotations

from pathlib import Path

import pytest

from dbrun.errors import UsageError
from dbrun.options.optimizers import AdamW
from dbrun.recipe.new import StarterRequest, starter_recipe, training_steps
from dbrun.recipe.starter_bases import starter_bases

CARDS = (8, 12, 16, 24)


@pytest.mark.parametrize("name", ["my_dog", "2024", "null", "a.b-c", "x" * 64])
def test_a_starter_is_a_valid_recipe_of_that_name(load, name: str) -> None:
    recipe = load(starter_recipe(StarterRequest(name))).recipe
    assert recipe.name == name
    assert (recipe.base.path, recipe.subject.images) == ("embedded", "embedded:sks_dog")


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "a/b", "x" * 65, "naïve"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="letters, digits"):
        starter_recipe(StarterRequest(name))


def test_a_starter_names_the_file_that_it_is_in() -> None:
    text = starter_recipe(StarterRequest("null"), Path("recipes/null.yaml"))
    assert "dbrun run recipes/null.yaml" in text and 'name: "null"' in text


@pytest.mark.parametrize("base", starter_bases())
def test_every_card_and_number_of_pictures_gives_a_valid_recipe_or_names_a_base_that_fits(load, base: str) -> None:
    for card in CARDS:
        for pictures in (3, 20, 200):
            request = StarterRequest("mine", base, "photos", pictures, "zwx", "cat", card)
            if card < starter_bases()[base].smallest_card:
                with pytest.raises(UsageError) as caught:
                    starter_recipe(request)
                assert "--base" in caught.value.fix and base not in caught.value.fix.split()
                continue
            text = starter_recipe(request)
            recipe = load(text).recipe
            assert recipe.subject.instance_prompt == "a photo of zwx cat" and recipe.prior is not None
            assert recipe.samples.every <= recipe.train.steps
            assert AdamW().learning_rate_warning(recipe.train.learning_rate) is None
            assert max(map(len, text.splitlines())) <= 120


def test_a_smaller_card_gets_settings_that_need_less(load) -> None:
    large, small = (load(starter_recipe(StarterRequest("x", "sdxl", memory=card))).recipe.base for card in (24, 8))
    assert large.offload is None and small.offload == "blocks"


def test_more_pictures_get_more_steps_but_not_in_proportion() -> None:
    assert [training_steps(1000, pictures) for pictures in (3, 10, 20, 200)] == [600, 1000, 1150, 3000]
    assert training_steps(100, 1) == 50


@pytest.mark.parametrize("text", ["it's 5° #1: {x}", "null", "a ${b}", "- x", "x ", '"', "☃", "a: b", "true"])
def test_words_of_the_user_arrive_as_they_are(load, text: str) -> None:
    recipe = load(starter_recipe(StarterRequest("x", images=text, word=text, class_word=None))).recipe
    assert recipe.subject.images == text
    assert recipe.subject.instance_prompt == f"a photo of {text}"
    assert recipe.prior is None and not recipe.subject.class_prompts


def test_a_class_has_its_article(load) -> None:
    prompts = [load(starter_recipe(StarterRequest("x", class_word=noun))).recipe.subject.class_prompt
               for noun in ("owl", "dog")]
    assert prompts == ["a photo of an owl", "a photo of a dog"]


def test_kohya_is_exported_where_the_base_has_it(load) -> None:
    exports = {base: load(starter_recipe(StarterRequest("x", base, memory=24))).recipe.export
               for base in ("sdxl", "z-image")}
    assert "kohya" in exports["sdxl"] and "kohya" not in exports["z-image"]
