"""Which stages a command looks at, may run and must run."""

import pytest
from stub_world import RECIPE, stub_stages

from dbrun.errors import UsageError
from dbrun.plan.selection import Selection, select_stages, stage_graph
from dbrun.recipe.load import load_recipe

NEEDS = {"load": (), "adapt": ("load",), "generate-priors": ("load",), "preprocess": ("load", "generate-priors"),
         "train": ("load", "adapt", "preprocess"), "export": ("load", "train")}


def names(found):
    return set(found)


def test_stages_stand_in_an_order_in_which_they_can_run(home):
    order = stage_graph(stub_stages(), load_recipe(home / "r.yaml").recipe)
    assert list(order) == list(NEEDS)
    assert order == NEEDS


def test_a_stage_that_the_recipe_lacks_is_left_out(home):
    (home / "r.yaml").write_text(RECIPE.replace("count: 4", "target: base"))
    order = stage_graph(stub_stages(), load_recipe(home / "r.yaml").recipe)
    assert "generate-priors" not in order and order["preprocess"] == ("load",)


@pytest.mark.parametrize(("selection", "seen", "runs"), [
    (Selection(), names(NEEDS), names(NEEDS)),
    (Selection(until="preprocess"), {"load", "generate-priors", "preprocess"},
     {"load", "generate-priors", "preprocess"}),
    (Selection(from_="preprocess"), names(NEEDS), {"preprocess", "train", "export"}),
    (Selection(only="train"), names(NEEDS) - {"export"}, {"train"}),
    (Selection(from_="generate-priors", until="preprocess"), {"load", "generate-priors", "preprocess"},
     {"generate-priors", "preprocess"}),
])
def test_what_is_seen_and_what_may_run(selection, seen, runs):
    chosen = select_stages(NEEDS, selection)
    assert set(chosen.needs) == seen and chosen.runnable == runs
    assert [n for n in NEEDS if n in chosen.needs] == list(chosen.needs)


def test_an_unknown_stage_is_answered_with_the_nearest():
    for selection in (Selection(until="trian"), Selection(from_="trian"), Selection(only="trian"),
                      Selection(force=("trian",))):
        with pytest.raises(UsageError, match="did you mean train"):
            select_stages(NEEDS, selection)


def test_stages_are_named_in_the_order_in_which_they_run(home):
    order = stage_graph(stub_stages(), load_recipe(home / "r.yaml").recipe)
    with pytest.raises(UsageError, match=", ".join(NEEDS)):
        select_stages(order, Selection(until="nowhere"))


@pytest.mark.parametrize(("selection", "said"), [
    (Selection(from_="train", until="load"), "with no stage between them"),
    (Selection(only="train", until="load"), "--only cannot be combined with"),
    (Selection(only="train", force=("load",)), "does not run load"),
    (Selection(until="adapt", force=("train",)), "does not run train"),
])
def test_contradictions_are_refused(selection, said):
    with pytest.raises(UsageError, match=said):
        select_stages(NEEDS, selection)


def test_what_is_forced_is_kept():
    assert select_stages(NEEDS, Selection(force=("train", "load"))).forced == {"train", "load"}
