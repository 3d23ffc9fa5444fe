"""Seeds of random draws: each draw's seed depends on the recipe's seed, its purpose and its index, on nothing else."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *address: str | int) -> int:
    """Seed in [0, 2^63) for an address, such as `derive_seed(seed, "noise", step, slot)`; the same on every machine.

    No draw depends on the draws before it, so a resumed run, or one with more processes, gives the same bytes.
    """
    # the type is part of the text, so that 1 and "1" differ; the separator, so that ("ab", "c") and ("a", "bc") do
    text = "\x1f".join([str(seed), *(f"{type(a).__name__}:{a}" for a in address)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
