"""Size of a piece of work, for estimates of time, memory and disk space from earlier work of the same kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Workload:
    """Relative size of a piece of work: only ratios to work with the same `like` have a meaning; 0 where unknown.

    units: number of steps or pictures. each: size of one unit; time grows in proportion to it. memory: quantities that
    memory grows with, at most in proportion to each. disk: file-name ending → quantity that such files grow with; other
    files do not grow. like: everything else that cost depends on, as text; only work with equal texts is compared.
    """

    units: float = 1.0
    each: float = 1.0
    memory: tuple[float, ...] = ()
    disk: Mapping[str, float] = field(default_factory=dict)
    like: tuple[str, ...] = ()
