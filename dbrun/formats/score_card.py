"""The section of a model card about scores: each with its spread, direction, source and encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbrun.expectations import score_text


def scores_section(document: Mapping[str, Any]) -> str:
    """Markdown of what scores.json says. document: its content."""
    lines = ["", "## Scores", "", "| score | value | base without adapter | better | measured as | in |",
             "|---|---|---|---|---|---|"]
    for entry in document["scores"].values():
        better = "higher" if entry["higher_is_better"] else "lower"
        base = _value(entry["base"]) if "base" in entry else "-"
        kind = document["encoders"][entry["encoder"]]["kind"]
        lines.append(f"| {entry['label']} | {_value(entry)} | {base} | {better} | {entry['source']} | {kind} |")
    prompts, seeds = len(document["prompts"]), len(document["seeds"])
    lines += ["", f"Over {prompts} prompts and {seeds} seeds each; ± is the standard deviation over the seeds. "
              "`scores.json` has prompts, seeds, the encoder's digests and the value of every picture.", ""]
    return "\n".join(lines)


def _value(entry: Mapping[str, Any]) -> str:
    """A mean with its spread over seeds."""
    return score_text(entry["mean"], entry["spread_seeds"])
