"""Does a starter recipe work as it stands?"""

from __future__ import annotations

from pathlib import Path

import pytest

from dbrun.errors import UsageError
from dbrun.recipe.new import starter_recipe


@pytest.mark.parametrize("name", ["my_dog", "2024", "null", "a.b-c", "x" * 64])
def test_a_starter_is_a_valid_recipe_of_that_name(load, name: str) -> None:
    recipe = load(starter_recipe(name)).recipe
    assert recipe.name == name
    assert (recipe.base.path, recipe.subject.images) == ("embedded", "embedded:sks_dog")


def test_a_starter_explains_itself() -> None:
    text = starter_recipe("my_dog")
    for word in ("dbrun run my_dog.yaml", "your own folder", "# ", "prior", "revision"):
        assert word in text


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "a/b", "x" * 65, "naïve"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="letters, digits"):
        starter_recipe(name)


def test_a_starter_names_the_file_that_it_is_in() -> None:
    text = starter_recipe("null", Path("recipes/null.yaml"))
    assert "dbrun run recipes/null.yaml" in text and 'name: "null"' in text
