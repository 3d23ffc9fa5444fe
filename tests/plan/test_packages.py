"""Is a package that only some recipes need missed before anything runs, and its version part of the key?"""

import pytest
from stub_world import TrainParams, go, make_home, resolved, stub_stages
from tiny_training import PARAMS

from dbrun import library_versions
from dbrun.errors import StageFailed
from dbrun.options.optimizers import optimizer_types
from dbrun.options.packages import OptionalPackage
from dbrun.options.prodigy import Prodigy
from dbrun.plan.cache_key import make_stage_key
from dbrun.plan.planner import Status, make_plan
from dbrun.recipe.load import load_recipe
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.sources import Numerics
from dbrun.stages.train import Train
from dbrun.store.store import Store

MISSING = OptionalPackage("nowhere-to-be-found", "nowhere_to_be_found", "optimizers")


class Needy(type(stub_stages()["train"])):
    def required_packages(self, params: TrainParams) -> tuple[OptionalPackage, ...]:
        return (MISSING,)


def test_the_plan_says_what_is_missing_and_how_to_install_it_and_nothing_runs(tmp_path, monkeypatch) -> None:
    home = make_home(tmp_path / "home")
    monkeypatch.setenv("STUB_RUNS", str(tmp_path / "runs"))
    stages = {**stub_stages(), "train": Needy()}
    recipe = load_recipe(home / "r.yaml").recipe
    plan = make_plan(recipe, resolved(home), Store(home / "store"), stages=stages)
    found = {s.name: s for s in plan.stages}
    assert found["preprocess"].status is Status.RUN and found["train"].status is Status.BLOCKED
    assert str(found["train"].reason) == (
        "the package nowhere-to-be-found is not installed: pip install 'dbrun[optimizers]'")
    with pytest.raises(StageFailed, match="nowhere-to-be-found") as failure:
        go(home, stages=stages)
    assert failure.value.fix == "pip install 'dbrun[optimizers]'" and not (tmp_path / "runs").exists()


class Wishing(type(stub_stages()["train"])):
    def optional_packages(self, recipe: Recipe) -> tuple[OptionalPackage, ...]:
        return (MISSING,) if recipe.trackers else ()


def test_a_tracker_that_is_not_installed_is_missed_too_and_only_where_it_is_asked_for(tmp_path) -> None:
    home = make_home(tmp_path / "home")
    stages = {**stub_stages(), "train": Wishing()}
    for words, status in (((), Status.RUN), (("trackers=[wandb]",), Status.BLOCKED)):
        recipe = load_recipe(home / "r.yaml", words).recipe
        plan = make_plan(recipe, resolved(home), Store(home / "store"), stages=stages)
        assert {s.name: s.status for s in plan.stages}["train"] is status
    assert [p.name for p in Train().optional_packages(recipe)] == ["wandb"] and recipe.trackers == ("wandb",)


@pytest.mark.parametrize("kind", optimizer_types(), ids=lambda k: k.NAME)
def test_only_the_chosen_optimizers_package_is_in_the_key(kind, monkeypatch) -> None:
    params = type(PARAMS)(**{**vars(PARAMS), "optimizer": kind(type=kind.NAME)})
    needed = [kind.REQUIRED_PACKAGE.name] if kind.REQUIRED_PACKAGE else []
    numerics = Numerics("cpu", 1)
    before = make_stage_key(Train(), params, {}, numerics)
    assert set(before.document["libraries"]) == {*Train.libraries, *needed}
    for name in needed:
        newer = library_versions.installed_version
        monkeypatch.setattr(library_versions, "installed_version",
                            lambda n, name=name: "99.1" if n == name else newer(n))
        assert make_stage_key(Train(), params, {}, numerics).key != before.key


def test_a_rate_that_suits_another_optimizer_is_remarked() -> None:
    assert "1.0 is usual" in str(Prodigy(type="prodigy").learning_rate_warning(1e-4))
    assert Prodigy(type="prodigy").learning_rate_warning(1.0) is None
    assert PARAMS.optimizer.learning_rate_warning(1e-4) is None
    for rate in (5.0, 0.03, 1e-9):
        assert "outside adamw's usual range" in str(PARAMS.optimizer.learning_rate_warning(rate))
