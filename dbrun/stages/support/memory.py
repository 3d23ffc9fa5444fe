"""Counted memory of a stage: its parts, and the phase of a stage in which it needs the most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class CountedMemory:
    """Peak bytes of a stage by what they hold.

    weights: of the base's components and the adapters; activations: the most tensors alive at once while the network
    computes; rest: optimizer state, gradients, copies, conditions, files while they are written, and on a CPU what
    computing takes besides tensors.
    """

    weights: int = 0
    activations: int = 0
    rest: int = 0

    @property
    def total(self) -> int:
        """All bytes together."""
        return self.weights + self.activations + self.rest

    def to_json(self) -> dict[str, int]:
        """The parts as JSON data."""
        return asdict(self)


NO_MEMORY = CountedMemory()
"""Memory of a stage that holds no tensors."""


def largest(phases: Iterable[CountedMemory]) -> CountedMemory:
    """The phase with the most bytes: phases follow one another, and each frees what the next does not need."""
    return max(phases, key=lambda phase: phase.total, default=NO_MEMORY)


def read_counted(data: object) -> CountedMemory | None:
    """Counted memory from JSON data; None where it is none, such as from another version of dbrun."""
    if not isinstance(data, Mapping):
        return None
    try:
        return CountedMemory(int(data["weights"]), int(data["activations"]), int(data["rest"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
