"""A row of items, dealt to the processes that share a stage's work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from dbrun.stages.base import StageContext

POLL_INTERVAL = 0.1
"""Seconds between two looks at what the other processes have made."""


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
