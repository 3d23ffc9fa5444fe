"""A recipe whose expectation is not met turns red: delivered, exit code 4, why, and the failure in JUnit XML."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import pytest
from stub_world import Counted, go, stub_stages

from dbrun.api.results import Run
from dbrun.cli.run import check_junit, refuse_below_expectation
from dbrun.errors import ExpectationMissed, UsageError
from dbrun.recipe.load import load_recipe
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.sources import Sources
from dbrun.store.runs import list_runs
from dbrun.store.store import Store
from dbrun.ui.history import run_table
from dbrun.ui.junit import write_junit

FOUND = {"subject": (0.612, None, True), "prior": (0.5, 0.4, False), "prompt": (0.3, None, True)}
"""Score → what the stub stage finds with the adapter and of the base, and whether higher is better."""


@dataclass(frozen=True)
class Params:
    """Nothing that a test changes."""

    number: int = 0


class Evaluate(Counted):
    """Writes scores.json as the real stage does, with the numbers of FOUND."""

    NAME = "evaluate"
    delivers = True
    needs = ("train",)
    runs_after: ClassVar[tuple[str, ...]] = ("export",)

    def applies_to(self, recipe: Recipe) -> bool:
        return recipe.evaluate is not None

    def params(self, recipe: Recipe, sources: Sources) -> Params:
        return Params()

    def work(self, job: StageContext[Any]) -> None:
        scores = {}
        for name, (mean, base, higher) in FOUND.items():
            scores[name] = {"mean": mean, "spread_seeds": 0.01, "higher_is_better": higher}
            if base is not None:
                scores[name]["base"] = {"mean": base}
        (job.out / "scores.json").write_text(json.dumps({"format_version": 1, "scores": scores}))


def scored_stages() -> dict[str, Stage[Any]]:
    # before `export` by name: the order must come from `runs_after`
    return {"evaluate": Evaluate(), **stub_stages()}


def score(home: Path, **expected: str) -> Run:
    """Run the stub recipe with these expectations."""
    texts = ", ".join(f'{name}: "{text}"' for name, text in expected.items())
    expect = f", expect: {{{texts}}}" if expected else ""
    done = go(home, f"evaluate={{clip: {{path: x}}{expect}}}", stages=scored_stages())
    assert done.ran[-1:] in ((), ("evaluate",))
    return Run.finished(done.folder, "stub", done.finished)


def test_a_run_below_what_is_expected_delivers_and_exits_with_4(home: Path, tmp_path: Path) -> None:
    done = score(home, subject=">= 0.7", prior="<= 1.3 of base", prompt="<= 0.2")
    assert (home / "outputs" / "stub" / "scores.json").is_file()
    assert (home / "outputs" / "stub" / "peft" / "weights").is_file()
    with pytest.raises(ExpectationMissed) as missed:
        refuse_below_expectation(done)
    assert missed.value.exit_code == 4
    assert missed.value.message.splitlines()[1:] == ["  prompt is 0.300, expected <= 0.2: 0.1 too high",
                                                     "  subject is 0.612, expected >= 0.7: 0.088 too low"]
    assert "change `evaluate.expect`" in (missed.value.fix or "")

    write_junit(tmp_path / "scores.xml", done.name, done.expectations, done.seconds)
    root = ElementTree.parse(tmp_path / "scores.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("3", "2")
    failures = {case.get("name"): case.findtext("failure") for case in root.iter("testcase")}
    assert failures == {"subject >= 0.7": "subject is 0.612, expected >= 0.7: 0.088 too low",
                        "prior <= 1.3 of base": None, "prompt <= 0.2": "prompt is 0.300, expected <= 0.2: 0.1 too high"}


def test_scores_are_told_of_a_run_on_record(home: Path) -> None:
    done = score(home, subject=">= 0.6", prior="<= 1.3 of base")
    refuse_below_expectation(done)
    assert done.scores["subject"].mean == 0.612 and done.scores["subject"].spread == 0.01
    (record,) = list_runs(Store(home / "store"))
    assert Run.on_record(record).scores == done.scores and Run.on_record(record).expectations == done.expectations
    assert Run.on_record(record).to_json()["scores"] == done.to_json()["scores"]
    assert "subject 0.612 ± 0.010" in run_table([(record, 0)])
    # nothing to do, and still below what a stricter recipe expects
    assert score(home, subject=">= 0.9").is_below_expectation


def test_without_expectations_nothing_is_below_them(home: Path) -> None:
    refuse_below_expectation(score(home))


def test_junit_is_refused_before_a_run_that_could_not_write_it(home: Path) -> None:
    plain = load_recipe(home / "r.yaml").recipe
    expecting = load_recipe(home / "r.yaml", ['evaluate={clip: {path: x}, expect: {subject: ">= 0.5"}}']).recipe
    with pytest.raises(UsageError, match="the recipe expects nothing"):
        check_junit(home / "scores.xml", plain)
    with pytest.raises(UsageError, match="there is no folder") as caught:
        check_junit(home / "nowhere" / "scores.xml", expecting)
    assert "mkdir -p" in str(caught.value)
    with pytest.raises(UsageError, match="is a folder"):
        check_junit(home, expecting)
    check_junit(home / "scores.xml", expecting)
