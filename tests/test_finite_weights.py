"""Weights that are no numbers, found in every dtype, wherever they stand in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dbrun import finite_weights
from dbrun.errors import RecipeError
from dbrun.finite_weights import check_finite

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 77, 299])
def test_one_weight_that_is_no_number_is_found(dtype: torch.dtype, value: float, place: int, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    # a chunk that ends within a tensor
    monkeypatch.setattr(finite_weights, "CHUNK_BYTES", 128)
    weights = torch.linspace(-1e4, 1e4, 300).to(dtype)
    save_file({"a.weight": torch.ones(3), "b.weight": weights}, tmp_path / "w.safetensors")
    check_finite(tmp_path / "w.safetensors")
    weights[place] = value
    save_file({"a.weight": torch.ones(3), "b.weight": weights}, tmp_path / "w.safetensors")
    with pytest.raises(RecipeError, match=r"b\.weight holds (NaN|infinity)"):
        check_finite(tmp_path / "w.safetensors")


def test_extreme_numbers_integers_and_masks_of_infinities_are_fine(tmp_path: Path) -> None:
    tensors = {f"{dtype}.weight": torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).tiny, -0.0]).to(dtype)
               for dtype in DTYPES[:3]}
    save_file({**tensors, "position_ids": torch.tensor([2**62]), "mask": torch.tensor([-float("inf")])},
              tmp_path / "w.safetensors")
    check_finite(tmp_path / "w.safetensors")
