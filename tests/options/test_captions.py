"""Are captions put into words, and their tags into other orders, as asked and always alike?"""

import pytest
from pydantic import TypeAdapter, ValidationError

from dbrun.config_types import tagged_union
from dbrun.options.captions import SIDECAR, Filename, Metadata, PromptOnly, Shuffle, Sidecar, caption_sources

TAGS = "sks dog, grass, sun, red ball, tree"


def test_every_source_is_found_by_its_type() -> None:
    adapter = TypeAdapter(tagged_union(caption_sources()))
    for kind in (Sidecar, Metadata, Filename, PromptOnly):
        assert type(adapter.validate_python({"type": kind.NAME})) is kind
    with pytest.raises(ValidationError):
        adapter.validate_python({"type": "prompt", "template": "{caption}"})


def test_a_template_stands_around_the_caption() -> None:
    worded = Sidecar(template="a photo of {trigger}, {caption}")
    assert worded.prompts(["a {dog} on grass"], "sks dog", 0) == ("a photo of sks dog, a {dog} on grass",)
    assert worded.needs_trigger and not Sidecar(template="{caption}, good").needs_trigger
    assert SIDECAR.prompts(["a", "b", "a"], None, 0) == ("a", "b") and SIDECAR.prompts([], None, 0) == ()


@pytest.mark.parametrize("template", ["a dog", "{caption} {0}", "{caption} {name}", "{caption", "{caption:>9}",
                                      "{caption!r}", "{trigger}", "{}", "{caption.upper}"])
def test_a_template_that_says_something_else_is_refused(template: str) -> None:
    with pytest.raises(ValidationError, match=r"text with \{caption\} in it, and optionally \{trigger\}"):
        Sidecar(template=template)


def test_tags_change_places_behind_those_that_are_kept() -> None:
    orders = Shuffle(variants=6, keep=2).shuffled_captions(TAGS, seed=0)
    assert orders[0] == TAGS and len(set(orders)) == 6
    for order in orders:
        tags = order.split(", ")
        assert tags[:2] == ["sks dog", "grass"] and sorted(tags) == sorted(TAGS.split(", "))
    assert any(order.split(", ")[0] != "sks dog" for order in Shuffle(keep=0).shuffled_captions(TAGS, 0))


def test_orders_have_an_address() -> None:
    """The same seed and caption, the same orders; more of them begin with the fewer."""
    shuffle = Shuffle(variants=8)
    assert shuffle.shuffled_captions(TAGS, 1) == shuffle.shuffled_captions(TAGS, 1)
    assert shuffle.shuffled_captions(TAGS, 1) != shuffle.shuffled_captions(TAGS, 2)
    assert Shuffle(variants=12).shuffled_captions(TAGS, 1)[:8] == shuffle.shuffled_captions(TAGS, 1)


def test_every_place_is_reached_by_every_tag() -> None:
    first = [order.split(", ")[1] for seed in range(40) for order in Shuffle().shuffled_captions(TAGS, seed)[1:]]
    shares = [first.count(tag) / len(first) for tag in TAGS.split(", ")[1:]]
    assert all(0.18 < share < 0.33 for share in shares), shares


@pytest.mark.parametrize(("caption", "separator", "orders"), [
    ("a", ",", {"a"}), ("a,b", ",", {"a, b"}), ("a, ,b,c", ",", {"a, b, c", "a, c, b"}),
    ("a|b|c", "|", {"a| b| c", "a| c| b"}), ("a b c", " ", {"a b c", "a c b"})])
def test_there_are_no_more_orders_than_the_tags_have(caption: str, separator: str, orders: set[str]) -> None:
    found = Shuffle(variants=8, separator=separator).shuffled_captions(caption, 0)
    assert set(found) == orders and len(found) == len(orders)


def test_words_stand_around_every_order() -> None:
    prompts = Sidecar(template="{trigger}: {caption}", shuffle=Shuffle(variants=3)).prompts(["a, b, c, d"], "sks", 0)
    assert len(prompts) == 3 and all(text.startswith("sks: a, ") for text in prompts)
