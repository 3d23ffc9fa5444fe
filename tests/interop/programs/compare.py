"""What a program's own loader made of the base's weights, against the merged weights that it read itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def compare(base: Weights, merged: Weights, loaded: Weights) -> dict[str, Any]:
    """changed: tensors that the merging changed; applied: of these, those that the loader changed too.

    error: max over tensors of |W'_loader - W'_merged| / |W' - W|; worst: the tensor that has it; missed: names;
    stray: tensors that the loader changed and the merging did not.
    """
    changed, applied, stray, missed = 0, 0, 0, []
    error, worst = 0.0, ""
    for name, before in base.items():
        is_same = torch.equal(loaded[name], before)
        if torch.equal(merged[name], before):
            stray += int(not is_same)
            continue
        changed += 1
        if is_same:
            missed.append(name)
            continue
        applied += 1
        # in 64 bits: the sum over millions of squares would round more than what is measured
        old, new, own = before.double(), merged[name].double(), loaded[name].double()
        apart = float((own - new).norm() / (new - old).norm())
        if apart > error:
            error, worst = apart, name
    return {"changed": changed, "applied": applied, "error": error, "worst": worst, "missed": sorted(missed),
            "stray": stray}


class Program:
    """One checkout of a program. Weights are compared by the program's own names, in the program's own model."""

    def __init__(self, checkout: Path) -> None:
        self._read: dict[str, Weights] = {}

    def weights(self, layout: str, checkpoint: str, file: str | None = None) -> Weights:
        """All weights after the program's loaders have read a checkpoint and, on top, an adapter's file."""
        raise NotImplementedError

    def adapter(self, layout: str, base: str, merged: str, file: str) -> dict[str, Any]:
        """Compare an adapter's file with the merged weights."""
        for checkpoint in (base, merged):
            if checkpoint not in self._read:
                self._read[checkpoint] = self.weights(layout, checkpoint)
        return compare(self._read[base], self._read[merged], self.weights(layout, base, file))

    def forget(self, merged: str) -> None:
        """Free the merged weights of a case that is done."""
        self._read.pop(merged, None)
