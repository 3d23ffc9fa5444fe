"""Scores of a run, from its `scores.json`, and how they compare with what the recipe expects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbrun.expectations import Outcome, ScoreSummary, parse_expectation
from dbrun.input_file import read_json
from dbrun.naming import SCORES_FILE
from dbrun.recipe.schema.model import Recipe


def read_scores(evaluated: Path) -> Mapping[str, Any]:
    """Name of a score → its entry in scores.json. evaluated: folder of the result of `evaluate`."""
    scores: Mapping[str, Any] = read_json(evaluated / SCORES_FILE)["scores"]
    return scores


def summarise(scores: Mapping[str, Any]) -> dict[str, ScoreSummary]:
    """Name → mean, spread over seeds and direction. scores: as in scores.json."""
    return {name: ScoreSummary(entry["mean"], entry["spread_seeds"], entry["higher_is_better"])
            for name, entry in scores.items()}


def compare_with_expected(recipe: Recipe, scores: Mapping[str, Any]) -> tuple[Outcome, ...]:
    """What became of each expectation, in the recipe's order; empty without any. scores: as in scores.json."""
    if recipe.evaluate is None or recipe.evaluate.expect is None:
        return ()
    outcomes: list[Outcome] = []
    for name, text in recipe.evaluate.expect.texts.items():
        expectation, entry = parse_expectation(text), scores[name]
        base = entry["base"]["mean"] if "base" in entry else None
        found = entry["mean"]
        outcomes.append(Outcome(name, text, found, expectation.limit(base), expectation.is_met(found, base)))
    return tuple(outcomes)
