"""The scores of a run: each with its spread, its direction, and whether it is what the recipe expects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbrun.input_file import read_json_object

SCORES_FILE = "scores.json"
"""File of the scores in a result of the stage `evaluate`."""
EXPECTATION = re.compile(r"(>=|<=) *([0-9.]+)( +of +base)?")
"""What a recipe expects of a score: `>= 0.7`, or `>= 0.8 of base`."""


@dataclass(frozen=True)
class ScoreLine:
    """One score.

    name: its key in the recipe; label: the field's name for it; value, base: with the adapter and without, each with
    its spread over seeds; prompts: spread over prompts; better: higher or lower; expected: as the recipe says
    it, "" for nothing; verdict: met or missed, "" where nothing is expected; source: paper and section.
    """

    name: str
    label: str
    value: str
    prompts: str
    base: str
    better: str
    expected: str
    verdict: str
    source: str


def read_scores(folder: Path, recipe: Mapping[str, Any]) -> tuple[ScoreLine, ...]:
    """A line for each score in a result of `evaluate`; () where there are none. recipe: as data."""
    scores = read_json_object(folder / SCORES_FILE).get("scores")
    expected = (recipe.get("evaluate") or {}).get("expect") or {}
    lines: list[ScoreLine] = []
    for name, entry in scores.items() if isinstance(scores, dict) else ():
        try:
            lines.append(_score_line(name, entry, expected.get(name) or ""))
        except (KeyError, TypeError, ValueError):
            # of another version: the other scores are shown all the same
            continue
    return tuple(lines)


def _score_line(name: str, entry: Mapping[str, Any], expected: str) -> ScoreLine:
    """Raises KeyError, TypeError or ValueError for an entry of another form."""
    base = entry.get("base")
    better = "higher" if entry["higher_is_better"] else "lower"
    spread = entry.get("spread_prompts")
    return ScoreLine(name, str(entry["label"]), _with_spread(entry), "" if spread is None else f"± {spread:.3f}",
                     "" if base is None else _with_spread(base), better, expected,
                     _verdict(expected, entry["mean"], None if base is None else base["mean"]), str(entry["source"]))


def _with_spread(entry: Mapping[str, Any]) -> str:
    """A score with its spread over seeds, `0.731 ± 0.012`; without it for a single seed."""
    spread = entry.get("spread_seeds")
    if spread is None:
        return f"{entry['mean']:.3f}"
    return f"{entry['mean']:.3f} ± {spread:.3f}"


def _verdict(expected: str, mean: float, base: float | None) -> str:
    """Whether a score keeps its limit, which counts as kept where both are equal; "" where nothing is expected."""
    found = EXPECTATION.fullmatch(expected.strip())
    if found is None:
        return ""
    limit = float(found[2])
    if found[3]:
        if base is None:
            return ""
        limit *= base
    is_met = mean >= limit if found[1] == ">=" else mean <= limit
    return "met" if is_met else f"missed by {abs(mean - limit):.2g}"
