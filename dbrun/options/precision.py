"""Number formats of a forward pass: the values of `train.precision`, defined only here."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["fp32", "bf16", "fp16"]
"""fp32: 32 bits throughout; bf16, fp16: 16 bits under autocast, while trained weights stay in 32 bits."""
PrecisionChoice = Literal["auto", Precision]
"""A recipe's value: a precision, or `auto` for the one that suits the device."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
