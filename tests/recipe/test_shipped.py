"""Is a recipe found by its name, here before among those that come with dbrun?"""

from pathlib import Path

import pytest

from dbrun.errors import UsageError
from dbrun.recipe.shipped import find_recipe, shipped_recipes


def test_a_name_means_the_recipe_here_then_the_one_of_dbrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe(Path("sks_dog")) == shipped_recipes()["sks_dog"]
    (tmp_path / "recipes").mkdir()
    for name in ("recipes/sks_dog.yaml", "recipes/my_dog.yaml", "my_dog.yaml"):
        (tmp_path / name).touch()
    assert find_recipe(Path("sks_dog")) == Path("recipes/sks_dog.yaml")
    assert find_recipe(Path("my_dog")) == Path("my_dog.yaml")
    # a file without an ending goes before a name, and a path is a path
    (tmp_path / "my_dog").touch()
    for word in ("my_dog", "other.yaml", "recipes/my_dog"):
        assert find_recipe(Path(word)) == Path(word)
    with pytest.raises(UsageError, match="did you mean sks_dog"):
        find_recipe(Path("sks_dgo"))
