"""What every stage must do; a new file in dbrun/stages is held to it by itself."""

from __future__ import annotations

import importlib.util
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from dbrun.config_types import Part
from dbrun.recipe.load import load_recipe
from dbrun.resolve.sources import resolve_sources
from dbrun.stages.base import Stage, stages
from dbrun.store.canonical import field_names, to_json_value
from dbrun.store.store import Store

RECIPE = Path(__file__).parents[2] / "recipes" / "sks_dog.yaml"
EVERY = pytest.mark.parametrize("stage", stages().values(), ids=lambda stage: stage.NAME)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A recipe and its sources."""
    store = Store(tmp_path_factory.mktemp("store"))
    store.prepare()
    loaded = load_recipe(RECIPE)
    return loaded.recipe, resolve_sources(loaded, store).sources


def test_the_stages_have_an_order_and_need_only_what_there_is() -> None:
    needs = {name: stage.needs for name, stage in stages().items()}
    assert {above for of_one in needs.values() for above in of_one} <= needs.keys()
    assert set(TopologicalSorter(needs).static_order()) == needs.keys()


@EVERY
def test_its_params_are_frozen_and_can_be_written_down(stage: Stage[Any], asked: tuple[Any, Any]) -> None:
    params = stage.params(*asked)
    frozen_part = isinstance(params, Part) and params.model_config["frozen"]
    assert frozen_part or type(params).__dataclass_params__.frozen
    assert isinstance(to_json_value(params), dict)
    assert stage.params(*asked) == params
    names = {*(field_names(type(params)) or ())}
    assert {*stage.extendable_params(params), *stage.restarts_on(params)} <= names


@EVERY
def test_it_names_modules_that_there_are_and_a_version(stage: Stage[Any]) -> None:
    assert [name for name in stage.modules if importlib.util.find_spec(name) is None] == []
    assert stage.VERSION >= 1
