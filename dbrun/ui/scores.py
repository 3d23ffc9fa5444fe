"""Texts about scores: each with its spread over seeds, and what is expected of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dbrun.errors import ExpectationMissed
from dbrun.expectations import Outcome, ScoreSummary, score_text
from dbrun.ui.table import align_rows


def scores_text(scores: Mapping[str, ScoreSummary]) -> str:
    """Every score on one line: `subject 0.731 ± 0.012  prompt 0.312 ± 0.004`."""
    return "  ".join(f"{name} {score_text(score.mean, score.spread)}" for name, score in scores.items())


def missed_error(outcomes: Sequence[Outcome], outputs: object) -> ExpectationMissed:
    """The error for expectations that are not met. outputs: the delivered folder."""
    lines = "".join(f"\n  {outcome.message}" for outcome in outcomes if not outcome.met)
    return ExpectationMissed(f"delivered to {outputs}, but below what is expected:{lines}",
                             fix="look at before_after.png there; train with other settings, or change "
                                 "`evaluate.expect`")


def scores_table(scores: Mapping[str, Mapping[str, ScoreSummary]]) -> str:
    """A row for each adapter, a column for each score with its direction. scores: name of an adapter → its scores."""
    head: dict[str, str] = {}
    for of_adapter in scores.values():
        for name, score in of_adapter.items():
            head[name] = f"{name} {'↑' if score.higher_is_better else '↓'}"
    rows: list[list[str]] = []
    for label, of_adapter in scores.items():
        cells = [score_text(of_adapter[name].mean, of_adapter[name].spread) for name in head]
        rows.append([label, *cells])
    return align_rows(rows, head=["adapter", *head.values()])
