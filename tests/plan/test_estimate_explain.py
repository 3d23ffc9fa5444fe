"""Are estimates, explanations, comparisons and drawings of a plan right about what was run before?"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from stub_world import go, resolved, stub_stages

from dbrun.errors import UsageError
from dbrun.plan.diff_runs import compare_runs, find_run, read_events
from dbrun.plan.estimate import CACHED_ESTIMATE, Estimate, estimate_stages, estimate_sweep, total_estimate
from dbrun.plan.explain import explain
from dbrun.plan.forecast import Forecast
from dbrun.plan.planner import Scope, make_scope, plan_scope
from dbrun.plan.selection import Selection
from dbrun.plan.sweep_plan import shared_work
from dbrun.recipe.load import load_recipe
from dbrun.run.timing import peak_memory
from dbrun.store.checksummed_json import dump_checksummed
from dbrun.store.runs import list_runs
from dbrun.store.store import Store
from dbrun.ui.explain import explanation
from dbrun.ui.graph import graph_text, mermaid
from dbrun.ui.history import comparison, log_lines, outcome_text, run_table
from dbrun.ui.plan import forecast_lines, stage_table


def plan_text(plan, known) -> str:
    """The plan with the lines that it ends in."""
    nothing = Forecast(None, True, None, None, "cpu", None, None, ())
    return "\n".join([stage_table(plan, known), *forecast_lines(plan, known, nothing, ['dog'])])


def within(home: Path, *overrides: str, until: str | None = None, force: tuple[str, ...] = ()) -> Scope:
    recipe = load_recipe(home / "r.yaml", overrides).recipe
    return make_scope(recipe, resolved(home), Store(home / "store"), Selection(until=until, force=force), stub_stages())


def timed(home: Path, **seconds: float) -> None:
    """Let the results of stages have taken so long, of which a sixth was getting ready; none where nothing grows."""
    store = Store(home / "store")
    for stage, long in seconds.items():
        for trace in store.traces.recent(stage, 9):
            startup = None if trace.startup is None and stage == "train" else long / 6
            store.traces.write(replace(trace, seconds=long, memory=1 << 30, startup=startup), durable=False)


def known(home: Path, *overrides: str, force: tuple[str, ...] = ()) -> Mapping[str, Estimate]:
    scoped = within(home, *overrides, force=force)
    return estimate_stages(scoped, plan_scope(scoped))


def test_nothing_is_estimated_where_nothing_ran(home: Path) -> None:
    scoped = within(home)
    assert estimate_stages(scoped, plan_scope(scoped)) == {}
    assert "going by earlier runs" not in plan_text(plan_scope(scoped), {})


def test_an_estimate_goes_by_earlier_work_and_its_length(home: Path) -> None:
    go(home)
    timed(home, train=60.0, export=2.0)
    scoped = within(home, "train.steps=12", "train.learning_rate=5e-5")
    found = estimate_stages(scoped, plan := plan_scope(scoped))
    # 10 s until the first step, and 50 s for 6 of them
    assert (found["train"].seconds, found["export"].seconds, found["train"].memory) == (110.0, 2.0, 1 << 30)
    assert found["train"].disk == len("0" * 64) and set(found) == {"train", "export"}
    text = plan_text(plan, found)
    assert "~1 min 50 s" in text
    assert re.search(r"^takes  about 1 min 52 s, up to about 1.0 GiB of memory, \d+ B of disk for results", text, re.M)


def test_what_is_forced_is_taken_to_come_out_as_before(home: Path) -> None:
    go(home)
    timed(home, load=3.0, train=60.0, export=2.0)
    found = known(home, force=("load",))
    assert set(found) == set(stub_stages()) and found.pop("load").seconds == 3.0
    assert set(found.values()) == {CACHED_ESTIMATE}
    assert go(home, select=Selection(force=("load",))).ran == ("load",)
    assert known(home, "train.learning_rate=5e-5", force=("load",))["train"].seconds == 60.0
    found = known(home, force=("load", "train"))
    assert (found["train"].seconds, found["export"]) == (60.0, CACHED_ESTIMATE)


def test_what_is_done_already_is_not_estimated_again(home: Path) -> None:
    go(home)
    timed(home, train=60.0)
    assert known(home, "train.steps=12")["train"].seconds == 60.0


def test_what_a_run_found_done_does_not_count_as_quickly_done(home: Path) -> None:
    go(home)
    go(home, "train.steps=8")
    assert {trace.share for trace in Store(home / "store").traces.recent("train", 9)} == {1.0, 0.25}
    timed(home, train=60.0)
    store = Store(home / "store")
    whole = next(trace for trace in store.traces.recent("train", 9) if trace.share == 1.0)
    store.traces.path("train", whole.key).unlink()
    # 2 of 8 steps in 50 s, beside 10 s of getting ready
    assert known(home, "train.steps=8", "train.learning_rate=5e-5")["train"].seconds == 210.0


def test_the_last_step_alone_tells_nothing(home: Path) -> None:
    go(home, "train.steps=60")
    go(home, "train.steps=61")
    timed(home, train=60.0)
    store = Store(home / "store")
    last, whole = sorted(store.traces.recent("train", 9), key=lambda trace: trace.share)
    assert last.startup is None and last.share == pytest.approx(1 / 61, abs=1e-6)
    assert known(home, "train.steps=120", "train.learning_rate=5e-5")["train"].seconds == 110.0
    store.traces.path("train", whole.key).unlink()
    scoped = within(home, "train.steps=120", "train.learning_rate=5e-5", force=("preprocess",))
    found = estimate_stages(scoped, plan := plan_scope(scoped))
    assert "train" not in found and "no estimate for train" in plan_text(plan, found)
    # but for as little again
    (home / "store" / "work").rename(home / "gone")
    assert known(home, "train.steps=1", "train.learning_rate=5e-5")["train"].seconds == 60.0


def test_work_that_found_all_of_its_steps_done_is_no_guide(home: Path) -> None:
    go(home)
    store = Store(home / "store")
    store.traces.path("train", next(store.traces.recent("train", 1)).key).unlink()
    go(home)
    assert next(store.traces.recent("train", 1)).share == 0.0
    assert "train" not in known(home, "train.learning_rate=5e-5")


@pytest.mark.parametrize(("change", "seconds", "memory", "disk"), [
    ("train.batch_size=2", 110.0, 2.0, 64), ("images.resolution=128", 210.0, 4.0, 128),
    ("images.resolution=32", 22.5, 1.0, 32), ("train.batch_size=1", 60.0, 1.0, 64)])
def test_time_memory_and_disk_grow_with_what_the_stage_says(home: Path, change: str, seconds: float, memory: float,
                                                            disk: int) -> None:
    go(home)
    timed(home, train=60.0)
    found = known(home, change, "train.learning_rate=5e-5")["train"]
    assert found == Estimate(seconds, round(memory * (1 << 30)), disk, startup=10.0)


def test_the_nearest_size_is_the_guide_and_of_those_the_longest_work(home: Path) -> None:
    go(home)
    timed(home, train=60.0)
    go(home, "train.learning_rate=5e-5", "train.steps=20")
    go(home, "train.learning_rate=3e-5", "train.batch_size=4", "train.steps=7")
    store = Store(home / "store")
    took = {6: 60.0, 20: 120.0, 7: 400.0}
    for trace in store.traces.recent("train", 9):
        assert trace.amounts
        long = took[int(trace.amounts.units)]
        store.traces.write(replace(trace, seconds=long, startup=20.0, memory=int(long)), durable=False)
    assert known(home, "train.steps=40", "train.learning_rate=1e-5")["train"].seconds == 220.0
    found = known(home, "train.batch_size=3", "train.steps=7", "train.learning_rate=1e-5")["train"]
    assert (found.seconds, found.memory) == (305.0, 400)


@pytest.mark.parametrize("change", ["train.precision=bf16", "base"])
def test_work_of_another_kind_or_on_another_base_is_no_guide(home: Path, change: str) -> None:
    if change == "base":
        go(home, base="another")
        assert "train" not in known(home)
    else:
        go(home)
        assert "train" not in known(home, change, "train.learning_rate=5e-5")


def test_work_of_before_sizes_were_written_down_is_no_guide(home: Path) -> None:
    go(home)
    store = Store(home / "store")
    for trace in store.traces.recent("train", 9):
        path = store.traces.path("train", trace.key)
        document = {name: value for name, value in json.loads(path.read_text()).items()
                    if name not in ("amounts", "startup", "sha256")}
        path.write_bytes(dump_checksummed(document))
    assert next(store.traces.recent("train", 9)).amounts is None
    assert "train" not in known(home, "train.learning_rate=5e-5")


def test_what_several_runs_share_is_estimated_once(home: Path) -> None:
    go(home)
    timed(home, train=60.0, export=2.0)
    planned = [(one, plan_scope(one)) for one in (within(home, f"train.steps={steps}", f"train.learning_rate={rate}")
                                                  for steps, rate in ((12, 2e-5), (18, 2e-5), (12, 2e-5)))]
    work = shared_work(planned)
    found = [(one.plan.name, one.runs, estimate and estimate.seconds)
             for one, estimate in zip(work, estimate_sweep(planned, work), strict=True)]
    assert found[-4:] == [("train", (0, 2), 110.0), ("train", (1,), 160.0), ("export", (0, 2), 2.0),
                          ("export", (1,), 2.0)]
    assert all(seconds is None for _, _, seconds in found[:-4])


def test_an_item_that_two_runs_need_is_made_by_the_first(home: Path) -> None:
    go(home)
    timed(home, preprocess=60.0)
    for item in (home / "store" / "traces" / "preprocess.item").glob("*/*.json"):
        item.unlink()

    def seconds(*force: str) -> list[float | None]:
        planned = [(one, plan_scope(one)) for one in (within(home, f"prior.count={n}", force=force) for n in (5, 6))]
        work = shared_work(planned)
        return [estimate and estimate.seconds for one, estimate in
                zip(work, estimate_sweep(planned, work), strict=True) if one.plan.name == "preprocess"]

    assert seconds() == [60.0, 10.0]
    assert seconds("preprocess") == [60.0, 60.0]


def test_a_base_that_is_fetched_again_is_the_same_base(home: Path) -> None:
    go(home)
    scoped = within(home, "train.steps=12", "train.learning_rate=5e-5")
    source = scoped.resolved.sources.base
    gone = replace(scoped, resolved=replace(scoped.resolved, sources=replace(
        scoped.resolved.sources, base=replace(source, folder=None))))
    plan = plan_scope(gone)
    assert [stage.status.value for stage in plan.stages if stage.name == "load"] == ["run"]
    assert "train" in estimate_stages(gone, plan)


def test_single_items_that_are_there_are_not_estimated_again(home: Path) -> None:
    go(home)
    timed(home, preprocess=60.0)
    made = list((home / "store" / "traces" / "preprocess.item").glob("*/*.json"))

    def seconds(*force: str) -> float:
        return known(home, "prior.count=5", force=force)["preprocess"].seconds

    assert len(made) > 1 and seconds() == 10.0
    made[0].unlink()
    assert seconds() == round(10.0 + 50.0 / len(made), 1)
    assert seconds("preprocess") == 60.0
    go(home, "prior.count=5")
    assert sorted(trace.share for trace in Store(home / "store").traces.recent("preprocess", 9)) == pytest.approx(
        [1 / len(made), 1.0])


def test_another_device_is_no_guide(home: Path) -> None:
    go(home)
    scoped = within(home, "threads=2", "train.steps=12")
    assert "train" not in (found := estimate_stages(scoped, plan := plan_scope(scoped)))
    assert "no estimate for generate-priors, preprocess, train" in plan_text(plan, found)


def test_stages_run_one_after_another() -> None:
    assert total_estimate([Estimate(1.0, 5, 2), Estimate(2.0, 3, 4), Estimate(1.0, None, None)]) == Estimate(4.0, 5, 6)
    assert total_estimate([Estimate(1.0, None, None)]) == Estimate(1.0, None, None)


def test_what_is_not_known_of_a_stage_is_named(home: Path) -> None:
    text = plan_text(plan_scope(within(home)), {"load": Estimate(1.0, 5, None), "train": Estimate(2.0, None, 7)})
    assert ("at least about 3.0 s, up to about 5 B of memory, at least 7 B of disk for results, going by earlier runs; "
            "no estimate for adapt, generate-priors, preprocess, export, the memory of train, the disk of load"
            ) in text


def test_the_peak_is_that_of_the_work_inside() -> None:
    with peak_memory("cpu") as memory:
        before = memory()
        block = bytearray(64 << 20)
        block[::4096] = b"x" * len(block[::4096])
        after = memory()
        del block
    assert before > 0 and after - before >= 60 << 20


def test_a_run_notes_the_memory_that_its_stages_took(home: Path) -> None:
    go(home)
    store = Store(home / "store")
    assert next(store.traces.recent("train", 1)).memory > 1 << 20


def test_a_key_is_taken_apart_against_the_nearest_earlier_one(home: Path) -> None:
    go(home)
    found = explain(within(home, "train.learning_rate=5e-5"), "train")
    changed = [(line.name, line.before, line.now) for line in found.lines if line.is_changed]
    assert changed == [("rate", "0.0001", "5e-05")]
    assert found.unchanged_inputs == ("load", "adapt", "preprocess") and found.key and found.earlier_document
    text = explanation(found)
    assert text.splitlines()[0] == "train  RUN  train.rate 0.0001 → 5e-05; load, adapt, preprocess unchanged"
    assert re.search(r"^~ +rate +5e-05  \(before: 0.0001\)$", text, re.M)
    assert [text.count(part) for part in ("version", "params", "numerics")] == [1, 1, 1], "a part is named once"
    assert json.loads(json.dumps(found.to_json()))["unchanged_inputs"] == ["load", "adapt", "preprocess"]


def test_the_key_of_a_cached_stage_is_that_of_its_result(home: Path) -> None:
    go(home)
    found = explain(within(home), "train")
    assert found.trace is not None and found.trace.key == found.key and not any(line.is_changed for line in found.lines)
    assert f"digest  {found.trace.digest}" in explanation(found)


def test_a_key_that_waits_for_results_says_for_which(home: Path) -> None:
    go(home)
    found = explain(within(home, "adapt.denoiser.rank=8"), "train")
    assert found.key is None
    assert [line.now for line in found.lines if line.name == "adapt"] == ["not known before adapt has run"]
    assert found.unchanged_inputs == ("load", "preprocess")


def test_a_stage_that_never_ran_is_compared_with_nothing(home: Path) -> None:
    found = explain(within(home), "load")
    assert found.earlier_document is None and "before:" not in explanation(found)


def test_runs_are_found_by_id_beginning_and_name(home: Path) -> None:
    go(home)
    go(home, "name=other")
    store = Store(home / "store")
    other, stub = list_runs(store)
    assert find_run(store, "stub") == stub and find_run(store, other.id) == other
    assert find_run(store, stub.id[:-1]) == stub
    with pytest.raises(UsageError, match="2 runs begin with '2'"):
        find_run(store, "2")
    with pytest.raises(UsageError, match="there is no run 'nobody'"):
        find_run(store, "nobody")
    head, *rows = run_table([(other, 0), (stub, 3 * 2**20)]).splitlines()
    assert [row.split()[0] for row in rows] == [other.id, stub.id]
    assert rows[0].split()[1] == "now" and "done" in rows[0] and "0 B" in rows[0] and "3.0 MiB" in rows[1]
    assert "6 of 6 ran, " in rows[1] and head.split() == ["run", "ago", "state", "keeps", "what", "it", "did"]


def test_two_runs_are_laid_beside_each_other(home: Path) -> None:
    go(home)
    go(home, "train.learning_rate=5e-5", "name=slow")
    store = Store(home / "store")
    first, second = find_run(store, "stub"), find_run(store, "slow")
    found = compare_runs(store, first, second)
    assert found.recipe == (("name", "stub", "slow"), ("train.learning_rate", "0.0001", "5e-05"))
    assert [name for name, _, _ in found.stages] == ["train", "export"]
    assert found.same_stages == ("load", "adapt", "generate-priors", "preprocess")
    text = comparison(found, first, second)
    assert text.splitlines()[:2] == [f"a  {first.id}", f"b  {second.id}"] and text.count(first.id) == 1
    assert re.search(r"^train.learning_rate +0.0001 +5e-05$", text, re.M) and "the same in both: load" in text
    assert comparison(compare_runs(store, first, first), first, first) == (
        "the same in both: load, adapt, generate-priors, preprocess, train, export")


def test_a_run_says_again_what_it_said(home: Path) -> None:
    go(home)
    run = list_runs(Store(home / "store"))[0]
    lines = log_lines(read_events(run), "Traceback\n").splitlines()
    assert "stub begins" in lines[0] and lines[-1] == "Traceback" and "6 ran, 0 cached" in lines[-2]
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"event": "note", "te')
    assert len(log_lines(read_events(run), None).splitlines()) == len(lines) - 1


@pytest.mark.parametrize(("steps", "shown"), [(3, [1, 2, 3]), (300, [*range(30, 301, 30)]), (25, [*range(1, 26, 3)])])
def test_a_log_shows_some_of_many_steps_and_always_the_last(steps: int, shown: list[int]) -> None:
    moved = [{"event": "progress", "stage": "train", "time": 0.0, "done": done, "total": steps, "unit": "steps",
              "metrics": {"prior_loss": 0.5, "images_per_second": 47.23, "memory_mib": 660.4}}
             for done in range(1, steps + 1)]
    note = {"event": "note", "stage": "train", "time": 0.0, "text": "a word", "level": "info"}
    lines = log_lines([note, *moved, note], None).splitlines()
    assert [line.split()[-2:] for line in (lines[0], lines[-1])] == [["a", "word"]] * 2
    assert [line.split()[2] for line in lines[1:-1]] == [f"{done}/{steps}" for done in shown]
    assert lines[1].endswith("steps  prior loss 0.5  47.2 images/s  660 MiB")


def test_a_failure_in_the_list_of_runs_names_its_stage_once(home: Path) -> None:
    go(home)
    run = list_runs(Store(home / "store"))[0]
    told = []
    for message in ("the loss is nan", "train failed: OSError: no"):
        with (run.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps({"event": "run_failed", "stage": "train", "message": message, "exit_code": 1}) + "\n")
        told.append(outcome_text(list_runs(Store(home / "store"))[0]))
    assert told == ["train: the loss is nan", "train failed: OSError: no"]


def test_a_graph_shows_who_needs_whom(home: Path) -> None:
    scoped = within(home)
    plan, needs = plan_scope(scoped), scoped.selected_stages.needs
    rows = graph_text(plan, needs).splitlines()
    names = [row.split()[0] for row in rows]
    for row, name in zip(rows, names, strict=True):
        line = row[row.index(next(c for c in row if c in "○●│")):]
        assert [names[i // 3] for i, c in enumerate(line) if c == "●"] == sorted(needs[name], key=names.index)
        assert line[3 * names.index(name)] == "○"
    assert "  load --> train" in mermaid(plan, needs).splitlines()
    assert 'generate_priors["generate-priors<br/>run"]:::run' in mermaid(plan, needs)
