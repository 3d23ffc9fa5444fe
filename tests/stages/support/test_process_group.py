"""Is a row of items dealt to several processes so that each is made once, and rank 0 waits for the rest?"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dbrun.errors import Interrupted, StageFailed
from dbrun.events import Event, Progress
from dbrun.stages.base import RuntimeOptions, StageContext
from dbrun.stages.sources import Numerics
from dbrun.stages.support import distribute as module
from dbrun.stages.support.distribute import run_distributed
from dbrun.stages.support.process_group import ProcessGroup


class Together(ProcessGroup):
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, size: int, counts: list[int], lost: bool = False) -> None:
        super().__init__(rank, size)
        self.counts, self.lost = counts, lost

    def count_done(self, more: int = 0) -> int:
        self.counts[0] += more
        return self.counts[0]

    def check_alive(self) -> None:
        if self.lost:
            raise StageFailed("process 1 is gone")


def job(process_group: ProcessGroup, events: list[Event], trusted: list[int],
        stop_signal: Callable[[], int] = lambda: 0) -> StageContext[Any]:
    items: Any = SimpleNamespace(reuse_stored=lambda: trusted.append(process_group.rank))
    inputs: Mapping[str, Any] = {}
    return StageContext(stage="x", params=None, numerics=Numerics("cpu", 1), inputs=inputs, out=Path(), work=Path(),
                        files={},
                        base=None, items=items, runtime=RuntimeOptions(1, 1), emit=events.append,
                        stop_signal=stop_signal, process_group=process_group)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_INTERVAL", 0.001)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_item_is_made_once_and_rank_0_returns_last(size: int) -> None:
    made: list[tuple[int, int]] = []
    counts, events, trusted = [0], [], []
    makers = {rank: [[lambda i=i, rank=rank: made.append((i, rank))] for i in range(7)] for rank in range(size)}
    seen: list[int] = []

    def first() -> None:
        run_distributed(job(Together(0, size, counts), events, trusted), makers[0], "pictures")
        seen.extend(sorted(i for i, _ in made))

    leader = threading.Thread(target=first)
    leader.start()
    for rank in range(1, size):
        run_distributed(job(Together(rank, size, counts), [], trusted), makers[rank], "pictures")
    leader.join(20)
    assert seen == list(range(7)) and all(i % size == rank for i, rank in made)
    done = [e.done for e in events if isinstance(e, Progress)]
    assert done == sorted(done) and done[0] == 0 and {e.total for e in events} == {7}
    assert trusted == ([0] if size > 1 else []), "what others made counts for the one that puts it together"


def test_who_waits_for_a_lost_process_fails_and_who_is_asked_to_stop_stops() -> None:
    with pytest.raises(StageFailed, match="process 1 is gone"):
        run_distributed(job(Together(0, 2, [0], lost=True), [], []), [[lambda: None]] * 2, "items")
    asked = iter([0, 0, 15])
    with pytest.raises(Interrupted):
        run_distributed(job(Together(0, 2, [0]), [], [], lambda: next(asked)), [[lambda: None]] * 2, "items")
