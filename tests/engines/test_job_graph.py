"""Does a graph of jobs hold each piece of work once, and only what is missing?"""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import pytest

from dbrun.api.request import RecipeRequest
from dbrun.engines.base import Job, JobStatus
from dbrun.engines.planning import PlannedJobs, plan_jobs
from dbrun.engines.rows import rows_of
from dbrun.errors import UsageError
from dbrun.plan.planner import make_scope
from dbrun.plan.selection import Selection
from dbrun.recipe.shipped import shipped_recipes
from dbrun.recipe.text.spans import InvalidRecipe
from dbrun.resolve.sources import resolve_sources

DOG = shipped_recipes()["sks_dog"]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBRUN_STORE", raising=False)


def subjects(count: int) -> list[dict[str, object]]:
    """Rows that differ in their training."""
    return [{"name": f"dog-{number}", "train.learning_rate": 1e-3 + number * 1e-6} for number in range(count)]


def planned(count: int, *overrides: str, sweeps: tuple[str, ...] = ()) -> PlannedJobs:
    return plan_jobs([RecipeRequest(DOG, overrides)], rows=rows_of(subjects(count)) if count else None, sweeps=sweeps)


def by_stage(jobs: tuple[Job, ...]) -> dict[tuple[str, ...], Job]:
    return {job.stages: job for job in jobs}


def test_shared_work_is_a_job_of_its_own_and_the_rest_of_a_run_is_one() -> None:
    jobs = planned(3).graph.jobs
    assert [job.stages for job in jobs] == [("load", "adapt"), ("generate-priors",), ("preprocess",)] + \
        [("train", "export")] * 3
    shared, own = jobs[:3], jobs[3:]
    names = ("dog-0", "dog-1", "dog-2")
    assert all(job.runs == names for job in shared) and [job.runs for job in own] == [(name,) for name in names]
    assert shared[0].needs == () and shared[1].needs == (shared[0].id,)
    assert all(set(job.needs) == {one.id for one in shared} for job in own)
    assert shared[0].command[:3] == ("dbrun", "stage", "adapt") and own[1].command == (
        "dbrun", "run", str(DOG), "name=dog-1", "train.learning_rate=0.001001")
    assert {job.status for job in jobs} == {JobStatus.RUN} and {job.gpus for job in jobs} == {0}
    assert len({job.id for job in jobs}) == 6 and len({job.base for job in jobs}) == 1
    assert json.loads(json.dumps(planned(3).graph.to_json()))["jobs"][0]["id"] == jobs[0].id, "the same in each plan"


def test_runs_over_one_base_and_class_share_two_jobs() -> None:
    """Subjects that differ in their pictures: here in how these are cut, which changes `preprocess` as well."""
    rows = [{"name": f"dog-{number}", "subject.instance_prompt": f"a photo of sks{number} dog",
             "subject.captions": {"type": "prompt"}} for number in range(4)]
    jobs = plan_jobs([RecipeRequest(DOG)], rows=rows_of(rows)).graph.jobs
    assert [job.stages for job in jobs] == [("load", "adapt"), ("generate-priors",)] + \
        [("preprocess", "train", "export")] * 4


def test_what_stands_gives_no_job_and_ids_stay() -> None:
    before = planned(2).graph.jobs
    loaded, _ = RecipeRequest(DOG).load_with_problems()
    store = RecipeRequest(DOG).open_store()
    scope = make_scope(loaded.recipe, resolve_sources(loaded, store, False), store, Selection(), None)
    key = scope.stage_key("load", {})
    out = store.make_temp_folder()
    (out / "base.json").write_text("{}")
    store.publish("load", key.key, key.document, out, seconds=3.0)
    after = planned(2).graph.jobs
    assert [job.stages for job in after][:2] == [("adapt",), ("generate-priors",)]
    assert [job.id for job in after] == [job.id for job in before], "what is left has the id that it had"
    assert after[0].needs == ()


def test_equal_work_under_two_names_is_done_once_and_delivered_twice() -> None:
    first, second = planned(0, sweeps=("name=a,b",)).graph.jobs
    assert first.stages == ("load", "adapt", "generate-priors", "preprocess", "train", "export")
    assert second.stages == () and second.status is JobStatus.DELIVER and second.needs == (first.id,)
    assert second.command[:2] == ("dbrun", "run") and second.runs == ("b",)


def test_trainings_of_several_lengths_go_one_after_another() -> None:
    jobs = planned(0, sweeps=("train.steps=300,200,400", "train.batch_size=4,5")).graph.jobs
    own = {job.runs[0]: job for job in jobs if job.until is None}
    for size in (4, 5):
        names = [f"sks_dog-train.steps-{steps}-train.batch_size-{size}" for steps in (300, 200, 400)]
        first, second, third = (own[name] for name in names)
        assert first.id in second.needs and second.id in third.needs and first.id not in third.needs
        assert not set(first.needs) & {job.id for job in own.values()}


def test_a_name_is_made_of_a_row_without_one_and_two_of_a_name_are_told() -> None:
    request = RecipeRequest(DOG)
    rows = rows_of([{"train.steps": 5}, {"name": "rex", "train.steps": 6}])
    jobs = plan_jobs([request], rows=rows, sweeps=("adapt.denoiser.rank=2,4",)).graph.jobs
    assert [job.runs[0] for job in jobs if job.until is None] == [
        "sks_dog-train.steps-5-adapt.denoiser.rank-2", "sks_dog-train.steps-5-adapt.denoiser.rank-4",
        "rex-adapt.denoiser.rank-2", "rex-adapt.denoiser.rank-4"]
    with pytest.raises(InvalidRecipe, match="found the name rex a second time"):
        plan_jobs([request], rows=rows_of([{"name": "rex", "seed": 1}, {"name": "rex", "seed": 2}]))
    with pytest.raises(UsageError, match="standard input"):
        plan_jobs([RecipeRequest(DOG, text="name: a")])


def test_a_gpu_that_only_other_machines_have_stops_no_plan_of_theirs() -> None:
    jobs = planned(0, "device=cuda", "launch.processes=2", "train.accumulation=2").graph.jobs
    assert [(job.gpus, job.status) for job in jobs] == [(2, JobStatus.RUN)]
    here = plan_jobs([RecipeRequest(DOG, ("device=cuda",))], elsewhere=False)
    assert here.stop is not None and "cannot run" in here.stop.message


@pytest.mark.slow
@pytest.mark.parametrize("count", [10, 1000])
def test_time_and_memory_grow_with_the_runs(count: int) -> None:
    planned(2)
    began = time.process_time()
    plan = planned(count)
    each = (time.process_time() - began) / count
    assert len(plan.graph.jobs) == 3 + count and each < 0.08, f"{each * 1000:.1f} ms of CPU a recipe"
    tracemalloc.start()
    planned(count)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6 + 2e4 * count
