"""The plan tells what will happen and why, and changes nothing."""

import os
import shutil

import pytest
from stub_outcomes import flip
from stub_world import go, make_home, resolved, stub_stages

from dbrun.plan import device, planner
from dbrun.plan.planner import Status, make_plan
from dbrun.plan.selection import Selection
from dbrun.recipe.load import load_recipe
from dbrun.store.store import Store

ORDER = ("load", "adapt", "generate-priors", "preprocess", "train", "export")


def plan(home, *overrides, select=Selection(), found=None):
    recipe = load_recipe(home / "r.yaml", overrides).recipe
    return make_plan(recipe, found or resolved(home), Store(home / "store"), select, stages=stub_stages())


def states(found):
    return {s.name: s.status.value for s in found.stages}


def reason(found, name):
    return next(str(s.reason) for s in found.stages if s.name == name)


def reran(found):
    return {s.name for s in found.stages if s.status is not Status.HIT}


def test_at_first_everything_is_to_do(home):
    found = plan(home)
    assert states(found) == dict.fromkeys(ORDER, "run")
    assert reason(found, "load") == "no earlier result"
    assert reason(found, "preprocess") == "after load, generate-priors"
    assert [s.key is None for s in found.stages] == [False, True, True, True, True, True]
    assert found.has_pending and not found.blocked_stages
    assert not (home / "store").exists(), "a plan writes nothing"


def test_afterwards_nothing_is(home):
    go(home)
    found = plan(home)
    assert states(found) == dict.fromkeys(ORDER, "hit")
    assert not found.has_pending
    assert all(s.key and s.digest for s in found.stages)


@pytest.mark.parametrize(("override", "stages"), [
    ("name=other", set()),
    ("export=[peft]", {"export"}),
    ("adapt.denoiser.rank=8", {"adapt", "train", "export"}),
    ("train.steps=9", {"train", "export"}),
    ("train.checkpoint_every=3", set()),
    ("train.keep=5", set()),
    ("threads=4", {"generate-priors", "preprocess", "train", "export"}),
    ("subject.class_prompt=a photo of a cat", {"generate-priors", "preprocess", "train", "export"}),
    ("prior.count=6", {"generate-priors", "preprocess", "train", "export"}),
    ("prior={count: null, target: base}", {"preprocess", "train", "export"}),
])
def test_a_change_reruns_exactly_what_it_must(home, override, stages):
    go(home)
    assert reran(plan(home, override)) == stages


def test_a_new_picture_and_a_new_base_rerun_what_they_must(home):
    go(home)
    (home / "pictures" / "new.png").write_text("new")
    found = plan(home)
    assert reran(found) == {"preprocess", "train", "export"}
    assert reason(found, "preprocess") == "1 picture added"
    assert reran(plan(home, found=resolved(home, "another base"))) == set(ORDER)


def test_names_and_places_of_pictures_do_not_matter(home, fresh):
    go(home)
    (home / "pictures" / "0.png").rename(home / "pictures" / "zzz.png")
    (home / "pictures").rename(home / "moved")
    (home / "pictures").symlink_to(home / "moved")
    assert reran(plan(home)) == set()


def test_the_reason_compares_with_the_last_run_of_the_same_name(home):
    go(home, "train.steps=7")
    go(home, "train.steps=9", "name=other")
    assert "train.steps 7 → 8" in reason(plan(home, "train.steps=8"), "train")
    assert "train.steps 9 → 8" in reason(plan(home, "train.steps=8", "name=other"), "train")
    assert "→ 8" in reason(plan(home, "train.steps=8", "name=third"), "train")


def test_what_never_ran_here_says_so_and_whose_result_is_nearest(home):
    go(home, "train.steps=9", "name=short")
    go(home, "train.steps=20", "adapt.denoiser.rank=8", "name=wide")
    assert "new; nearest is run short: train.steps 9 → 8" in reason(
        plan(home, "train.steps=8", "name=third"), "train")
    assert "new" not in reason(plan(home, "train.steps=8", "name=short"), "train")
    shutil.rmtree(home / "store" / "runs")
    assert "new; nearest is an earlier result: train.steps 9 → 8" in reason(
        plan(home, "train.steps=8", "name=third"), "train")


def test_longer_work_resumes_shorter_work_only_as_far_as_its_checkpoints(home):
    go(home)
    longer = plan(home, "train.steps=9")
    assert states(longer)["train"] == "resume"
    assert reason(longer, "train") == "from step 6 (train.steps 6 → 9)"
    assert "from step 4" in reason(plan(home, "train.steps=5"), "train")
    assert states(plan(home, "train.steps=1"))["train"] == "run"
    assert states(plan(home, "train.steps=9", "train.learning_rate=0.5"))["train"] == "run"


def test_finished_items_are_progress(home):
    go(home)
    found = plan(home, "prior.count=6")
    assert reason(found, "generate-priors") == "from 4 items made (prior.count 4 → 6)"


def test_damage_is_told_and_left_alone(home):
    outcome = go(home)
    (outcome.artifacts["train"].path / "adapter").unlink()
    found = plan(home)
    assert states(found)["train"] == "resume" and "adapter is missing" in reason(found, "train")
    assert not (home / "store" / "quarantine").exists()


def test_a_flipped_byte_is_seen_where_it_would_be_used(home):
    outcome = go(home)
    flip(outcome.artifacts["train"])
    assert not plan(home).has_pending, "nothing reads it"
    found = plan(home, "export=[peft]")
    assert states(found)["train"] == "resume" and "other bytes" in reason(found, "train")
    assert reason(found, "export") == "after train"


def test_a_flipped_byte_is_seen_through_several_stages(home):
    outcome = go(home)
    flip(outcome.artifacts["adapt"])
    assert reran(plan(home, "export=[peft]")) == {"export"}, "export does not read it"
    flip(outcome.artifacts["train"])
    assert reran(plan(home, "export=[peft]")) == {"adapt", "train", "export"}


def test_a_flipped_export_is_seen(home):
    flip(go(home).artifacts["export"])
    found = plan(home)
    assert reran(found) == {"export"} and "other bytes" in reason(found, "export")


def test_forced_stages_run_and_what_follows_waits(home):
    go(home)
    found = plan(home, select=Selection(force=("adapt",)))
    assert reran(found) == {"adapt", "train", "export"}
    assert "--force" in reason(found, "adapt") and reason(found, "train") == "after adapt"


def test_until_looks_at_nothing_else(home):
    assert [s.name for s in plan(home, select=Selection(until="preprocess")).stages] == [
        "load", "generate-priors", "preprocess"]


def test_from_and_only_block_where_something_above_is_not_cached(home):
    found = plan(home, select=Selection(only="train"))
    assert states(found)["load"] == "blocked" and "no earlier result" in reason(found, "load")
    assert states(found)["train"] == "blocked"
    go(home)
    assert states(plan(home, "train.steps=9", select=Selection(only="train")))["train"] == "resume"
    above = plan(home, "adapt.denoiser.rank=8", select=Selection(from_="preprocess"))
    assert states(above)["adapt"] == "blocked" and "rank 4 → 8" in reason(above, "adapt")
    assert states(above)["preprocess"] == "hit" and states(above)["train"] == "blocked"


def test_a_device_that_is_not_here_blocks_what_computes_and_only_that(home, monkeypatch):
    monkeypatch.setattr(device, "why_unavailable", lambda name: "no CUDA device is here" if name == "cuda" else None)
    found = plan(home, "device=cuda")
    assert states(found) | {"export": ""} == {
        "load": "run", "adapt": "run", "generate-priors": "blocked", "preprocess": "blocked", "train": "blocked",
        "export": ""}
    assert reason(found, "generate-priors").startswith("no CUDA device is here: write")


def test_fp16_without_a_gpu_blocks_what_computes_before_anything_runs(home, monkeypatch):
    monkeypatch.setattr(device, "why_unavailable", lambda name: f"no {name} here" if name != "cpu" else None)
    found = plan(home, "train.precision=fp16", "device=auto")
    assert [s.name for s in found.blocked_stages] == ["generate-priors", "preprocess", "train", "export"]
    assert reason(found, "generate-priors") == (
        "fp16 needs a GPU, and this runs on the CPU: write `train.precision: fp32` (or bf16)")
    drawn = plan(home, "prior.precision=fp16", "device=auto")
    assert "write `prior.precision: fp32` (or bf16)" in reason(drawn, "generate-priors")
    assert not plan(home, "train.precision=bf16", "device=auto").blocked_stages
    monkeypatch.setattr(device, "why_unavailable", lambda name: None)
    assert not plan(home, "train.precision=fp16", "device=auto").blocked_stages


def hub(home, folder=None, revision=None, unreachable=None):
    from dataclasses import replace

    base = resolved(home)
    source = replace(base.sources.base, identity="hub:a/b@" + "c" * 40, folder=folder)
    return replace(base, sources=replace(base.sources, base=source), unpinned_revision=revision,
                   unavailable_reason=unreachable)


def test_a_base_whose_commit_is_unknown_has_no_key_yet(home):
    found = plan(home, found=hub(home, revision="main"))
    assert found.stages[0].key is None and "revision main" in reason(found, "load")


def test_a_base_that_cannot_be_fetched_blocks(home):
    found = plan(home, found=hub(home, unreachable="a/b is not here and HF_HUB_OFFLINE is set"))
    assert set(states(found).values()) == {"blocked"}
    assert "HF_HUB_OFFLINE" in reason(found, "load")


def test_a_base_that_is_gone_is_fetched_only_when_it_is_needed(home, monkeypatch):
    from stub_world import execute

    loaded = load_recipe(home / "r.yaml")
    execute(loaded, hub(home, folder=home), Store(home / "store"), emit=lambda e: None, outputs=home / "o",
            stages=stub_stages())
    assert not plan(home, found=hub(home)).has_pending
    found = plan(home, "train.steps=9", found=hub(home))
    assert states(found)["load"] == "run" and "no longer" in reason(found, "load")
    assert states(found)["adapt"] == "hit"
    offline = plan(home, "train.steps=9", found=hub(home, unreachable="offline"))
    assert states(offline)["load"] == "blocked" and states(offline)["train"] == "blocked"
    assert states(offline)["adapt"] == "hit"


def test_the_json_form(home):
    go(home)
    document = plan(home).to_json()
    assert document["format_version"] == 1
    assert set(document["stages"][0]) == {"name", "status", "reason", "key", "digest"}
    assert document["stages"][0]["status"] == "hit"


def test_only_checkpoints_count_as_progress(fresh):
    from stub_world import Train, TrainParams

    from dbrun.plan.cache_key import make_stage_key
    from dbrun.stages.sources import Numerics

    question = make_stage_key(Train(), TrainParams(300, 1.0), {}, Numerics("cpu", 1))
    assert planner.saved_progress(question, fresh / "nothing") is None
    (fresh / "checkpoints").mkdir()
    for name in ("step-x", ".step-00000250.tmp", "other-7"):
        (fresh / "checkpoints" / name).touch()
    assert planner.saved_progress(question, fresh) is None
    for step in (100, 200, 400):
        (fresh / "checkpoints" / f"step-{step:08}.{'a' * 64}.safetensors").touch()
    assert planner.saved_progress(question, fresh) == "step 200"


def test_a_plan_of_a_store_that_cannot_be_written_works(home):
    go(home)
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (home / "store").chmod(0o555)
    try:
        assert not plan(home).has_pending
    finally:
        (home / "store").chmod(0o755)


def test_two_homes_share_one_store(home, fresh):
    go(home)
    other = make_home(fresh / "other")
    (other / "store").symlink_to(home / "store")
    assert not plan(other).has_pending
