"""The scores of a run and of its candidates: each with its spread, and whether it is what the recipe expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbrun.expectations import parse_expectation, score_text
from dbrun.input_file import read_json_object
from dbrun.naming import SCORES_FILE, SELECTION_FILE

COMBINED = "combined"
"""Member of a candidate in selection.json, and column of the page: what several scores are combined to."""


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


@dataclass(frozen=True)
class Candidates:
    """The candidates of a training.

    by: what decided; step: of the chosen one; columns: the score, or several and what they are combined to; rows:
    (step, values) of all, a value for each column; step 0 is the base without adapter.
    """

    by: str
    step: int
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]


def read_candidates(folder: Path) -> Candidates | None:
    """The candidates in a result of `select`; None where they were not compared."""
    document = read_json_object(folder / SELECTION_FILE)
    rows: list[tuple[int, tuple[str, ...]]] = []
    try:
        by, step = document["by"], int(document["step"])
        names = by if isinstance(by, list) else []
        for row in document["candidates"]:
            rows.append((int(row["step"]), _candidate_cells(row, names)))
    except (KeyError, TypeError, ValueError):
        # of another version
        return None
    if not rows:
        return None
    if not names:
        return Candidates(str(by), step, (str(by),), tuple(rows))
    return Candidates(" and ".join(map(str, names)), step, (*map(str, names), COMBINED), tuple(rows))


def _candidate_cells(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """The values of one candidate. names: of several scores, () for a single one; raises KeyError or TypeError."""
    if not names:
        return (_with_spread(row),)
    cells = [_with_spread(row["scores"][name]) for name in names]
    # the base is no candidate
    combined = score_text(row[COMBINED], None) if row["step"] else ""
    return (*cells, combined)


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
    better = "higher" if entry["higher_is_better"] else "lower"
    prompts = ""
    if entry.get("spread_prompts") is not None:
        prompts = f"± {entry['spread_prompts']:.3f}"
    base_text, base_mean = "", None
    if entry.get("base") is not None:
        base_text, base_mean = _with_spread(entry["base"]), entry["base"]["mean"]
    verdict = _verdict(expected, entry["mean"], base_mean)
    return ScoreLine(name, str(entry["label"]), _with_spread(entry), prompts, base_text, better, expected,
                     verdict, str(entry["source"]))


def _with_spread(entry: Mapping[str, Any]) -> str:
    """A score with its spread over seeds."""
    return score_text(entry["mean"], entry.get("spread_seeds"))


def _verdict(expected: str, mean: float, base: float | None) -> str:
    """Whether a score is as expected; "" where nothing is. Raises ValueError without the base that it is compared with.
    """
    if not expected:
        return ""
    expectation = parse_expectation(expected)
    if expectation.is_met(mean, base):
        return "met"
    return f"missed by {abs(mean - expectation.limit(base)):.2g}"
