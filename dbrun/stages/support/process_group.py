"""Which of the processes that share a stage's work is this, and how is a row of items dealt to them?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbrun.stages.base import StageContext

POLL_INTERVAL = 0.1
"""Seconds between two looks at what the other processes have made."""


class ProcessGroup:
    """One process that works alone. Where several do, each runs the stage; only that of rank 0 writes its result.

    rank: which of them this is; size: how many they are; local_rank: which on its machine, and so which GPU it takes.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._done = 0

    def count_done(self, more: int = 0) -> int:
        """How many items all together have made, after adding so many."""
        self._done += more
        return self._done

    def check_alive(self) -> None:
        """Raise StageFailed where another process has failed or is gone."""


def run_distributed(ctx: StageContext[Any], makers: Sequence[Callable[[], object]], unit: str) -> None:
    """Call each of makers in one of the processes; rank 0 returns once all are made, the others with their share.

    A maker leaves what it makes in the job's items, where rank 0 finds it.
    """
    process_group, total = ctx.process_group, len(makers)
    for make in makers[process_group.rank::process_group.size]:
        ctx.check_interrupt()
        ctx.progress(process_group.count_done(), total, unit)
        make()
        process_group.count_done(1)
    if process_group.size == 1 or process_group.rank:
        return
    told = -1
    while (done := process_group.count_done()) < total:
        ctx.check_interrupt()
        process_group.check_alive()
        if done > told:
            ctx.progress(told := done, total, unit)
        time.sleep(POLL_INTERVAL)
    ctx.items.reuse_stored()
