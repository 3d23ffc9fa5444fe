"""Is the word that was meant found, here or elsewhere?"""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field

from dbrun.config_types import Int, Part
from dbrun.recipe.checks import json_schema, schema_info
from dbrun.recipe.checks.field_docs import field_docs
from dbrun.recipe.checks.suggestions import (
    OTHER_TRAINERS_KEYS,
    join_with_or,
    nearest,
    nearest_value,
    unknown_key_message,
)


@pytest.mark.parametrize(("word", "near"), [
    ("stpes", "steps"), ("Steps", "steps"), ("STEP", "steps"), ("zebra", None), ("", None)])
def test_the_nearest_word(word: str, near: str | None) -> None:
    assert nearest(word, ["rank", "steps", "seed"]) == near


def test_a_value_of_another_tool_is_translated_before_letters_are_compared() -> None:
    assert nearest_value("GPU", ["auto", "cuda", "cpu"]) == "cuda"
    assert nearest_value("float16", ["fp32", "fp16"]) == "fp16"
    assert nearest_value("gpu", ["cpu"]) == "cpu"


def test_a_key_of_another_place_is_named_only_where_it_is_much_alike() -> None:
    every = schema_info.all_keys()
    assert unknown_key_message("hello", ["name"], every) == "unknown key; allowed here: name"
    assert "'train.held_out'" in unknown_key_message("heldout", ["name"], every)


def test_words_are_listed_as_people_do() -> None:
    assert [join_with_or(list(w)) for w in ("", "a", "ab", "abc")] == ["", "a", "a or b", "a, b or c"]


def test_other_trainers_words_lead_to_keys_that_exist() -> None:
    known = set(schema_info.all_keys())
    assert {key: target for key, target in OTHER_TRAINERS_KEYS.items() if target not in known} == {}
    last = {key.rsplit(".", 1)[-1] for key in known}
    assert not last & OTHER_TRAINERS_KEYS.keys(), "a key of the recipe needs no translation"


def test_an_unknown_key_is_sought_elsewhere_before_its_like_is_sought_here() -> None:
    every = ("train", "train.steps", "images", "images.resolution")
    assert "'images.resolution'" in unknown_key_message("train.resolution", ["steps"], every)
    assert "'steps'" in unknown_key_message("train.stps", ["steps"], every)
    assert "'images.resolution'" in unknown_key_message("train.resolutoin", ["steps"], every)
    assert unknown_key_message("train.qqq", ["steps"], every).endswith("allowed here: steps")


def test_a_slip_in_a_key_is_mended_here_before_the_word_is_sought_elsewhere() -> None:
    every = schema_info.all_keys()
    train = schema_info.allowed_keys(schema_info.schema_child(schema_info.root(), "train"))
    assert unknown_key_message("train.step", train, every) == "unknown key; did you mean 'steps'?"
    assert unknown_key_message("train.step", train, every, dotted=True) == "unknown key; did you mean 'train.steps'?"


def test_every_key_of_the_recipe_is_found_with_its_limits() -> None:
    every = schema_info.all_keys()
    assert {"train.schedule.type", "adapt.text_encoder.rank", "samples.prompts", "schema"} <= set(every)
    spot = schema_info.schema_child(schema_info.schema_child(schema_info.root(), "train"), "steps")
    assert schema_info.describe_type(spot.annotation) == "a whole number from 1 to 10000000"


@pytest.mark.parametrize(("limits", "words"), [
    ({"ge": 2}, "a multiple of 2 of at least 2"), ({"ge": 2, "le": 64}, "a multiple of 2 from 2 to 64")])
def test_a_multiple_is_said_to_people_and_to_editors(limits: dict[str, int], words: str) -> None:
    class Chain(Part):
        rank: Annotated[Int, Field(multiple_of=2, **limits)] = 4

    assert schema_info.describe_type(Annotated[Int, Field(multiple_of=2, **limits)]) == words
    rank = json_schema._relax(Chain.model_json_schema(mode="serialization"))["properties"]["rank"]
    assert rank["anyOf"][0]["multipleOf"] == 2


def test_every_field_has_its_docstring() -> None:
    assert field_docs(schema_info.root().parts[0])["schema"]
    for part in schema_info.schema_child(schema_info.schema_child(schema_info.root(), "train"), "schedule").parts:
        assert field_docs(part)["warmup_steps"].startswith("Steps over which")
