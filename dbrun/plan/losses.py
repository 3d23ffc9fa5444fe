"""Final losses of a training, from its `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dbrun.input_file import parse_json, read_file
from dbrun.naming import METRICS_FILE

MAX_BYTES = 2**30
"""Largest `metrics.jsonl` in bytes that is read; a training of a million steps writes a fifth of it."""
TAIL = 10
"""The mean is taken over the last one of so many parts: single steps scatter."""
HELD_OUT = "held_out_loss"
"""The loss that is measured only now and then; its last value counts."""


def final_losses(trained: Path) -> Mapping[str, float]:
    """Mean over the last tenth of the steps of each loss, and the last held-out loss; empty if there are none.

    trained: folder of the result of `train`.
    """
    try:
        lines = read_file(trained / METRICS_FILE, MAX_BYTES).splitlines()
        tail = [parse_json(line) for line in lines[-max(1, len(lines) // TAIL):]]
        held_out = next((parse_json(line) for line in reversed(lines) if HELD_OUT.encode() in line), None)
    except (OSError, ValueError):
        return {}
    columns: dict[str, list[float]] = {}
    for row in tail:
        _add_losses(row, columns)
    losses = {name: sum(values) / len(values) for name, values in columns.items()}
    last: dict[str, list[float]] = {}
    _add_losses(held_out, last)
    if HELD_OUT in last:
        losses[HELD_OUT] = last[HELD_OUT][0]
    return losses


def _add_losses(row: object, columns: dict[str, list[float]]) -> None:
    """Add the losses of one step to the values of their names."""
    if not isinstance(row, dict):
        return
    for name, value in row.items():
        if name.endswith("loss") and isinstance(value, int | float):
            columns.setdefault(name, []).append(value)
