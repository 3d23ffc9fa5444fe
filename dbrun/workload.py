"""How large a piece of work is, so that its time, memory and disk can be told from earlier work of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Workload:
    """How large a piece of work is, in numbers that only count beside those of work that is alike; 0 where unknown.

    units: steps, pictures; each: how large one of them is, so that twice as large takes twice as long; memory: of
    each, twice as much takes at most twice the memory; disk: end of a file's name -> what these files grow with, others
    stay as they are; like: all else that it depends on, in words: other work with other words is no guide.
    """

    units: float = 1.0
    each: float = 1.0
    memory: tuple[float, ...] = ()
    disk: Mapping[str, float] = field(default_factory=dict)
    like: tuple[str, ...] = ()
