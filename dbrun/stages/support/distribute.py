"""Distribution of a stage's items over the processes that share its work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from dbrun.stages.base import StageContext

POLL_INTERVAL = 0.1
"""Seconds between two checks of how far the other processes are."""


def run_distributed(ctx: StageContext[Any], groups: Sequence[Sequence[Callable[[], object]]], unit: str) -> None:
    """Call each maker in one of the processes. Rank 0 returns when all are done, the others after their share.

    groups: makers of one item each; one process calls all makers of a group.

    A maker leaves its result in the stage's item cache, where rank 0 finds it. unit: the word for progress reports.
    Raises StageFailed where another process has failed.
    """
    process_group, total = ctx.process_group, sum(len(group) for group in groups)
    for group in groups[process_group.rank::process_group.size]:
        # not within a group: what its first maker drew for the others would be lost
        ctx.check_interrupt()
        for make in group:
            ctx.progress(process_group.count_done(), total, unit)
            make()
            process_group.count_done(1)
    if process_group.size == 1 or process_group.rank:
        return

    # rank 0 waits for the others
    reported = -1
    done = process_group.count_done()
    while done < total:
        ctx.check_interrupt()
        process_group.check_alive()
        if done > reported:
            reported = done
            ctx.progress(done, total, unit)
        time.sleep(POLL_INTERVAL)
        done = process_group.count_done()
    # under `--force` the cache would make the others' items again
    ctx.items.reuse_stored()
