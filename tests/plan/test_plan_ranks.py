"""Is a rank that no layer of the base can use refused, with the largest that one can?"""

from __future__ import annotations

from pathlib import Path

import pytest

from dbrun.plan.sources import locate
from dbrun.recipe.load import load_recipe
from dbrun.recipe.new import starter
from dbrun.recipe.places import Problems
from dbrun.store.store import Store


@pytest.fixture
def dog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("dog.yaml").write_text(starter("dog"))
    return Path("dog.yaml")


def test_a_rank_beyond_every_layer_is_refused_with_its_place(dog: Path) -> None:
    with pytest.raises(Problems) as caught:
        locate(load_recipe(dog, ["adapt.denoiser.rank=1024"]), Store(Path("store")))
    problem, = caught.value.problems
    assert problem.key == "adapt.denoiser.rank"
    assert "found 1024, but no layer of this base's denoiser" in problem.message
    most = int((problem.fix or "").split()[1])
    locate(load_recipe(dog, [f"adapt.denoiser.rank={most}"]), Store(Path("store")))
    with pytest.raises(Problems):
        locate(load_recipe(dog, [f"adapt.denoiser.rank={most + 1}"]), Store(Path("store")))


def test_other_adapters_and_a_usual_rank_pass(dog: Path) -> None:
    locate(load_recipe(dog), Store(Path("store")))
    locate(load_recipe(dog, ["adapt.denoiser={type: full}", "export=null"]), Store(Path("store")))
