"""How do the processes of a run tell each other what to do, how far they are, and what went wrong?"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dbrun.stages.support.process_group import Ranks
from dbrun.workers.env import Place

if TYPE_CHECKING:
    from torch.distributed import Store

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others to be there at all."""
HOLD = timedelta(hours=6)
"""How long a step may wait for the slowest process, which may draw samples or write to a slow disk meanwhile."""
SELDOM = 0.2
"""Seconds between two looks at the other processes."""


@dataclass
class Board:
    """Words and counts that every process of a run sees: plain JSON, since whoever reaches the port may write.

    size: how many processes they are.
    """

    store: Store
    size: int
    _read: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, more: int = 0) -> int:
        """The count of this name after adding so much."""
        return self.store.add(name, more)

    def post(self, name: str, words: Mapping[str, object]) -> None:
        """Add something to the row of this name."""
        # written before it is counted: each process has numbers of its own
        place = self.store.add(f"{name} places", 1)
        self.store.set(f"{name} {place}", json.dumps(words))

    def news(self, name: str) -> Iterator[dict[str, Any]]:
        """What was added to the row since this process last asked."""
        while self.store.check([f"{name} {self._read.get(name, 0) + 1}"]):
            self._read[name] = self._read.get(name, 0) + 1
            yield json.loads(self.store.get(f"{name} {self._read[name]}"))

    def turn(self, brief: Mapping[str, object]) -> int:
        """Say what all are to work on next; the number of that turn."""
        self.post("brief", brief)
        return self.count("brief places")

    def end(self) -> None:
        """Say that the run is over."""
        self.count("over", 1)

    @property
    def over(self) -> bool:
        """Whether the run is over."""
        return self.count("over") > 0

    def part(self) -> None:
        """Leave the group."""
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()

    def meet(self, rank: int) -> None:
        """Make the group in which tensors are exchanged; returns when all are in it. The first process begins."""
        from torch import distributed

        if rank == 0:
            self.count("meet", 1)
        distributed.init_process_group("gloo", store=distributed.PrefixStore("group", self.store), rank=rank,
                                       world_size=self.size, timeout=HOLD)


def opened(size: int) -> tuple[Board, int]:
    """A new board for so many processes of this machine, and the port at which they reach it."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, None, True, PATIENCE, wait_for_workers=False)
    return Board(store, size), store.port


def reached(here: Place) -> Board:
    """The board of a run that others started: its first process, or a launcher as torch finds it."""
    from torch.distributed import TCPStore
    from torch.distributed.rendezvous import rendezvous

    if here.ours:
        store: Store = TCPStore(here.address, here.port, None, False, PATIENCE, wait_for_workers=False)
    else:
        store, _, _ = next(rendezvous("env://", here.rank, here.size, timeout=PATIENCE))
    return Board(store, here.size)


class Shared(Ranks):
    """A process's part in one turn. look: raises where another process is gone."""

    def __init__(self, rank: int, size: int, local: int, board: Board, turn: int, look: Callable[[], None]) -> None:
        super().__init__(rank, size, local)
        self.board, self.turn, self.look = board, turn, look
        self._looked = 0.0

    def made(self, more: int = 0) -> int:
        """How many items all together have made in this turn, after adding so many."""
        return self.board.count(f"made in turn {self.turn}", more)

    def watch(self) -> None:
        """Look, but not so often that it costs anything."""
        if time.monotonic() - self._looked > SELDOM:
            self._looked = time.monotonic()
            self.look()
