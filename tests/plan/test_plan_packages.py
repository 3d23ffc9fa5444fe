"""Is a package that only some recipes need missed before anything runs, and its version part of the key?"""

import pytest
from stub_world import TrainParams, go, located, make_home, stub_stages
from tiny_training import PARAMS

from dbrun.errors import StageFailed
from dbrun.options.optimizers import types
from dbrun.options.packages import Package
from dbrun.options.prodigy import Prodigy
from dbrun.plan import cache_key
from dbrun.plan.cache_key import ask
from dbrun.plan.planner import Status, make_plan
from dbrun.recipe.load import load_recipe
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import Numerics
from dbrun.stages.train import Train
from dbrun.store.store import Store

MISSING = Package("nowhere-to-be-found", "nowhere_to_be_found", "optimizers")


class Needy(type(stub_stages()["train"])):
    def packages(self, params: TrainParams) -> tuple[Package, ...]:
        return (MISSING,)


def test_the_plan_says_what_is_missing_and_how_to_install_it_and_nothing_runs(tmp_path, monkeypatch) -> None:
    home = make_home(tmp_path / "home")
    monkeypatch.setenv("STUB_RUNS", str(tmp_path / "runs"))
    stages = {**stub_stages(), "train": Needy()}
    recipe = load_recipe(home / "r.yaml").recipe
    plan = make_plan(recipe, located(home), Store(home / "store"), stages=stages)
    found = {s.name: s for s in plan.stages}
    assert found["preprocess"].status is Status.RUN and found["train"].status is Status.BLOCKED
    assert str(found["train"].reason) == (
        "the package nowhere-to-be-found is not installed: pip install 'dbrun[optimizers]'")
    with pytest.raises(StageFailed, match="nowhere-to-be-found") as failure:
        go(home, stages=stages)
    assert failure.value.fix == "pip install 'dbrun[optimizers]'" and not (tmp_path / "runs").exists()


class Wishing(type(stub_stages()["train"])):
    def wishes(self, recipe: Recipe) -> tuple[Package, ...]:
        return (MISSING,) if recipe.trackers else ()


def test_a_tracker_that_is_not_installed_is_missed_too_and_only_where_it_is_asked_for(tmp_path) -> None:
    home = make_home(tmp_path / "home")
    stages = {**stub_stages(), "train": Wishing()}
    for words, status in (((), Status.RUN), (("trackers=[wandb]",), Status.BLOCKED)):
        recipe = load_recipe(home / "r.yaml", words).recipe
        plan = make_plan(recipe, located(home), Store(home / "store"), stages=stages)
        assert {s.name: s.status for s in plan.stages}["train"] is status
    assert [p.name for p in Train().wishes(recipe)] == ["wandb"] and recipe.trackers == ("wandb",)


@pytest.mark.parametrize("kind", types(), ids=lambda k: k.NAME)
def test_only_the_chosen_optimizers_package_is_in_the_key(kind, monkeypatch) -> None:
    params = type(PARAMS)(**{**vars(PARAMS), "optimizer": kind(type=kind.NAME)})
    needed = [kind.PACKAGE.name] if kind.PACKAGE else []
    numerics = Numerics("cpu", 1)
    before = ask(Train(), params, {}, numerics)
    assert set(before.document["libraries"]) == {*Train.libraries, *needed}
    for name in needed:
        newer = cache_key.full_version
        monkeypatch.setattr(cache_key, "full_version", lambda n, name=name: "99.1" if n == name else newer(n))
        assert ask(Train(), params, {}, numerics).key != before.key


def test_a_rate_that_suits_another_optimizer_is_remarked() -> None:
    assert "1.0 is usual" in str(Prodigy(type="prodigy").remark(1e-4))
    assert Prodigy(type="prodigy").remark(1.0) is None and PARAMS.optimizer.remark(1e-4) is None
    assert all("unusual with adamw" in str(PARAMS.optimizer.remark(rate)) for rate in (5.0, 0.03, 1e-9))
