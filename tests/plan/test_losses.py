"""Final losses: means over the last tenth of the steps, and the last held-out loss."""

import json
from pathlib import Path

from dbrun.plan.losses import final_losses


def test_final_losses_are_those_of_the_end(tmp_path: Path) -> None:
    rows = [{"step": i, "loss": float(i), "prior_loss": None, "grad_norm": 2.0} for i in range(40)]
    rows[20]["held_out_loss"] = 7.0
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert final_losses(tmp_path) == {"loss": 37.5, "held_out_loss": 7.0}


def test_without_numbers_there_are_no_losses(tmp_path: Path) -> None:
    assert final_losses(tmp_path) == {}
    (tmp_path / "metrics.jsonl").write_text('{"loss": null}\n[1]\n')
    assert final_losses(tmp_path) == {}
