"""Which of the processes that share a stage's work is this, and how is a row of items dealt to them?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbrun.stages.base import Job

PAUSE = 0.1
"""Seconds between two looks at what the other processes have made."""


class Ranks:
    """One process that works alone. Where several do, each runs the stage; only that of rank 0 writes its result.

    rank: which of them this is; size: how many they are; local: which on its machine, and so which GPU it takes.
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int = 0) -> None:
        self.rank, self.size, self.local = rank, size, local
        self._made = 0

    def made(self, more: int = 0) -> int:
        """How many items all together have made, after adding so many."""
        self._made += more
        return self._made

    def watch(self) -> None:
        """Raise StageFailed where another process has failed or is gone."""


def spread(job: Job[Any], makers: Sequence[Callable[[], object]], unit: str) -> None:
    """Call each of makers in one of the processes; rank 0 returns once all are made, the others with their share.

    A maker leaves what it makes in the job's items, where rank 0 finds it.
    """
    ranks, total = job.ranks, len(makers)
    for make in makers[ranks.rank::ranks.size]:
        job.poll()
        job.progress(ranks.made(), total, unit)
        make()
        ranks.made(1)
    if ranks.size == 1 or ranks.rank:
        return
    told = -1
    while (done := ranks.made()) < total:
        job.poll()
        ranks.watch()
        if done > told:
            job.progress(told := done, total, unit)
        time.sleep(PAUSE)
    job.items.trust()
