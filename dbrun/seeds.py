"""Every random draw has an address: a seed made of the recipe's seed, what the draw is for, and which one it is."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *address: str | int) -> int:
    """A 63-bit seed for this address, e.g. `derive(seed, "noise", step, slot)`; stable over time and machines."""
    text = "\x1f".join([str(seed), *(f"{type(a).__name__}:{a}" for a in address)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
