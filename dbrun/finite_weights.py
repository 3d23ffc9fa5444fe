"""Check of a safetensors file for weights that are no numbers, before hours of training give nothing but them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dbrun.errors import RecipeError
from dbrun.input_file import open_file
from dbrun.safetensors_header import read_header

EXPONENTS = {"F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F32": ("<u4", 0x7F800000),
             "F64": ("<u8", 0x7FF0000000000000)}
"""dtype → numpy's type of the same size, and the bits of the exponent: all are set in NaN and infinity (IEEE 754)."""
SIGNS = {"<u2": 0x8000, "<u4": 0x80000000, "<u8": 0x8000000000000000}
"""numpy's type → the bit of the sign."""
CHUNK_BYTES = 16 * 2**20
"""Bytes that are looked at in one go."""
PARAMETER_SUFFIXES = (".weight", ".bias")
"""Ends of the names of parameters, which may not be infinite either; a stored mask may hold -inf."""


def check_finite(path: Path, check_interrupt: Callable[[], None] = lambda: None) -> None:
    """Raise RecipeError where a weight of a safetensors file is NaN, or a parameter infinite. About 1 GB/s.

    check_interrupt: called now and then; may raise to stop.
    """
    header = read_header(path)
    with open_file(path) as file:
        for name, tensor in header.tensors.items():
            if tensor["dtype"] not in EXPONENTS:
                continue
            start, end = tensor["data_offsets"]
            file.seek(header.data_start + start)
            left = end - start
            while left > 0:
                check_interrupt()
                data = file.read(min(left, CHUNK_BYTES))
                if not data:
                    break
                left -= len(data)
                found = _find_non_finite(data, tensor["dtype"], infinity=name.endswith(PARAMETER_SUFFIXES))
                if found is not None:
                    raise RecipeError(f"{path}: the weight {name} holds {found}, expected finite numbers",
                                      fix="export or fetch the file again; nothing can be learnt from such weights")


def _find_non_finite(data: bytes, dtype: str, *, infinity: bool) -> str | None:
    """"NaN" or "infinity" where the data hold one; None where they do not. infinity: whether infinity counts."""
    import numpy as np

    kind, exponent = EXPONENTS[dtype]
    # bits, not floats: numpy has no bfloat16; a last value that is cut off is left out
    bits = np.frombuffer(data, kind, count=len(data) // np.dtype(kind).itemsize)
    suspicious = bits[(bits & exponent) == exponent]
    if not len(suspicious):
        return None
    # infinity has no further bit but the sign
    if ((suspicious & ~np.array(SIGNS[kind], kind)) != exponent).any():
        return "NaN"
    return "infinity" if infinity else None
