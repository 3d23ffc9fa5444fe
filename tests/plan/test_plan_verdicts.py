"""Are estimates, explanations, comparisons and drawings of a plan right about what was run before?"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from stub_world import go, located, stub_stages

from dbrun.errors import UsageError
from dbrun.plan.compare import compare, events, find_run
from dbrun.plan.estimate import Estimate, estimates, total
from dbrun.plan.explain import explain
from dbrun.plan.memory import peak
from dbrun.plan.planner import Scope, plan_of, scope
from dbrun.plan.selection import Selection
from dbrun.recipe.load import load_recipe
from dbrun.store.runs import runs
from dbrun.store.store import Store
from dbrun.ui.explain import explanation
from dbrun.ui.graph import drawn, mermaid
from dbrun.ui.history import comparison, ended, log_lines, run_table
from dbrun.ui.plan import table


def within(home: Path, *overrides: str, until: str | None = None, force: tuple[str, ...] = ()) -> Scope:
    recipe = load_recipe(home / "r.yaml", overrides).recipe
    return scope(recipe, located(home), Store(home / "store"), Selection(until=until, force=force), stub_stages())


def timed(home: Path, **seconds: float) -> None:
    """Let the results of stages have taken so long."""
    store = Store(home / "store")
    for stage, long in seconds.items():
        for trace in store.traces.recent(stage, 9):
            store.traces.write(replace(trace, seconds=long, memory=1 << 30), durable=False)


def test_nothing_is_estimated_where_nothing_ran(home: Path) -> None:
    scoped = within(home)
    assert estimates(scoped, plan_of(scoped)) == {}
    assert "going by earlier runs" not in table(plan_of(scoped), {})


def test_an_estimate_goes_by_the_nearest_earlier_work_and_its_length(home: Path) -> None:
    go(home)
    timed(home, train=60.0, export=2.0)
    scoped = within(home, "train.steps=12", "train.learning_rate=5e-5")
    known = estimates(scoped, plan := plan_of(scoped))
    assert (known["train"].seconds, known["export"].seconds, known["train"].memory) == (120.0, 2.0, 1 << 30)
    assert known["train"].disk > 0 and set(known) == {"train", "export"}
    text = table(plan, known)
    assert "~2 min 00 s" in text and re.search(r"^about 2 min 02 s, 1.0 GiB of memory, \d+ B of disk", text, re.M)


def test_what_is_done_already_is_not_estimated_again(home: Path) -> None:
    go(home)
    timed(home, train=60.0)
    scoped = within(home, "train.steps=12")
    assert estimates(scoped, plan_of(scoped))["train"].seconds == 60.0


def test_what_a_run_found_done_does_not_count_as_quickly_done(home: Path) -> None:
    go(home)
    go(home, "train.steps=8")
    assert {trace.share for trace in Store(home / "store").traces.recent("train", 9)} == {1.0, 0.25}
    timed(home, train=60.0)
    scoped = within(home, "train.steps=8", "train.learning_rate=5e-5")
    assert estimates(scoped, plan_of(scoped))["train"].seconds == 240.0


def test_single_items_that_are_there_are_not_estimated_again(home: Path) -> None:
    go(home)
    timed(home, preprocess=60.0)
    made = list((home / "store" / "traces" / "preprocess.item").glob("*/*.json"))

    def seconds(*force: str) -> float:
        scoped = within(home, "prior.count=5", force=force)
        return estimates(scoped, plan_of(scoped))["preprocess"].seconds

    assert len(made) > 1 and seconds() == 0.0
    made[0].unlink()
    assert seconds() == round(60.0 / len(made), 1)
    assert seconds("preprocess") == 60.0
    go(home, "prior.count=5")
    assert sorted(trace.share for trace in Store(home / "store").traces.recent("preprocess", 9)) == pytest.approx(
        [1 / len(made), 1.0])


def test_the_last_step_alone_tells_little(home: Path) -> None:
    go(home, "train.steps=60")
    go(home, "train.steps=61")
    timed(home, train=60.0)
    scoped = within(home, "train.steps=61", "train.learning_rate=5e-5")
    assert estimates(scoped, plan_of(scoped))["train"].seconds == 61.0


def test_another_device_is_no_guide(home: Path) -> None:
    go(home)
    scoped = within(home, "threads=2", "train.steps=12")
    assert "train" not in (known := estimates(scoped, plan := plan_of(scoped)))
    assert "nothing is known of generate-priors, preprocess, train" in table(plan, known)


def test_stages_run_one_after_another() -> None:
    assert total([Estimate(1.0, 5, 2), Estimate(2.0, 3, 4)]) == Estimate(3.0, 5, 6)


def test_the_peak_is_that_of_the_work_inside() -> None:
    with peak("cpu") as memory:
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
    assert [(line.name, line.before, line.now) for line in found.lines if line.changed] == [("rate", "0.0001", "5e-05")]
    assert found.unchanged == ("load", "adapt", "preprocess") and found.key and found.earlier
    text = explanation(found)
    assert text.splitlines()[0] == "train  RUN  train.rate 0.0001 → 5e-05; load, adapt, preprocess unchanged"
    assert re.search(r"^~ +rate +5e-05  \(before: 0.0001\)$", text, re.M)
    assert [text.count(part) for part in ("version", "params", "numerics")] == [1, 1, 1], "a part is named once"
    assert json.loads(json.dumps(found.as_json()))["unchanged_inputs"] == ["load", "adapt", "preprocess"]


def test_the_key_of_a_cached_stage_is_that_of_its_result(home: Path) -> None:
    go(home)
    found = explain(within(home), "train")
    assert found.trace is not None and found.trace.key == found.key and not any(line.changed for line in found.lines)
    assert f"digest  {found.trace.digest}" in explanation(found)


def test_a_key_that_waits_for_results_says_for_which(home: Path) -> None:
    go(home)
    found = explain(within(home, "adapt.denoiser.rank=8"), "train")
    assert found.key is None
    assert [line.now for line in found.lines if line.name == "adapt"] == ["not known before adapt has run"]
    assert found.unchanged == ("load", "preprocess")


def test_a_stage_that_never_ran_is_compared_with_nothing(home: Path) -> None:
    found = explain(within(home), "load")
    assert found.earlier is None and "before:" not in explanation(found)


def test_runs_are_found_by_id_beginning_and_name(home: Path) -> None:
    go(home)
    go(home, "name=other")
    store = Store(home / "store")
    other, stub = runs(store)
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
    found = compare(store, first, second)
    assert found.recipe == (("name", "stub", "slow"), ("train.learning_rate", "0.0001", "5e-05"))
    assert [name for name, _, _ in found.stages] == ["train", "export"]
    assert found.same == ("load", "adapt", "generate-priors", "preprocess")
    text = comparison(found, first, second)
    assert text.splitlines()[:2] == [f"a  {first.id}", f"b  {second.id}"] and text.count(first.id) == 1
    assert re.search(r"^train.learning_rate +0.0001 +5e-05$", text, re.M) and "the same in both: load" in text
    assert comparison(compare(store, first, first), first, first) == (
        "the same in both: load, adapt, generate-priors, preprocess, train, export")


def test_a_run_says_again_what_it_said(home: Path) -> None:
    go(home)
    run = runs(Store(home / "store"))[0]
    lines = log_lines(events(run), "Traceback\n").splitlines()
    assert "stub begins" in lines[0] and lines[-1] == "Traceback" and "6 ran, 0 cached" in lines[-2]
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"event": "note", "te')
    assert len(log_lines(events(run), None).splitlines()) == len(lines) - 1


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
    run = runs(Store(home / "store"))[0]
    told = []
    for message in ("the loss is nan", "train failed: OSError: no"):
        with (run.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps({"event": "run_failed", "stage": "train", "message": message, "exit_code": 1}) + "\n")
        told.append(ended(runs(Store(home / "store"))[0]))
    assert told == ["train: the loss is nan", "train failed: OSError: no"]


def test_a_graph_shows_who_needs_whom(home: Path) -> None:
    scoped = within(home)
    plan, needs = plan_of(scoped), scoped.chosen.needs
    rows = drawn(plan, needs).splitlines()
    names = [row.split()[0] for row in rows]
    for row, name in zip(rows, names, strict=True):
        line = row[row.index(next(c for c in row if c in "○●│")):]
        assert [names[i // 3] for i, c in enumerate(line) if c == "●"] == sorted(needs[name], key=names.index)
        assert line[3 * names.index(name)] == "○"
    assert "  load --> train" in mermaid(plan, needs).splitlines()
    assert 'generate_priors["generate-priors<br/>run"]:::run' in mermaid(plan, needs)
