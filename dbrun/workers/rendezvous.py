"""How do the processes of a run tell each other what to do, how far they are, and what went wrong?"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dbrun.stages.support.process_group import ProcessGroup
from dbrun.workers.env import DistributedEnv

if TYPE_CHECKING:
    from torch.distributed import Store

JOIN_TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others to be there at all."""
STEP_TIMEOUT = timedelta(hours=6)
"""How long a step may wait for the slowest process, which may draw samples or write to a slow disk meanwhile."""
CHECK_INTERVAL = 0.2
"""Seconds between two looks at the other processes."""


@dataclass
class ControlChannel:
    """Words and counts that every process of a run sees: plain JSON, since whoever reaches the port may write.

    size: how many processes they are.
    """

    store: Store
    size: int
    _read_counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, more: int = 0) -> int:
        """The count of this name after adding so much."""
        return self.store.add(name, more)

    def post(self, name: str, words: Mapping[str, object]) -> None:
        """Add something to the row of this name."""
        # written before it is counted: each process has numbers of its own
        place = self.store.add(f"{name} places", 1)
        self.store.set(f"{name} {place}", json.dumps(words))

    def new_messages(self, name: str) -> Iterator[dict[str, Any]]:
        """What was added to the row since this process last asked."""
        while self.store.check([f"{name} {self._read_counts.get(name, 0) + 1}"]):
            self._read_counts[name] = self._read_counts.get(name, 0) + 1
            yield json.loads(self.store.get(f"{name} {self._read_counts[name]}"))

    def announce_stage(self, brief: Mapping[str, object]) -> int:
        """Say what all are to work on next; the number of that turn."""
        self.post("brief", brief)
        return self.count("brief places")

    def announce_end(self) -> None:
        """Say that the run is over."""
        self.count("over", 1)

    @property
    def is_over(self) -> bool:
        """Whether the run is over."""
        return self.count("over") > 0

    def leave_group(self) -> None:
        """Leave the group."""
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()

    def join_group(self, rank: int) -> None:
        """Make the group in which tensors are exchanged; returns when all are in it. The first process begins."""
        from torch import distributed

        if rank == 0:
            self.count("meet", 1)
        distributed.init_process_group("gloo", store=distributed.PrefixStore("group", self.store), rank=rank,
                                       world_size=self.size, timeout=STEP_TIMEOUT)


def create_channel(size: int) -> tuple[ControlChannel, int]:
    """A new channel for so many processes of this machine, and the port at which they reach it."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, None, True, JOIN_TIMEOUT, wait_for_workers=False)
    return ControlChannel(store, size), store.port


def connect_channel(here: DistributedEnv) -> ControlChannel:
    """The channel of a run that others started: its first process, or a launcher as torch finds it."""
    from torch.distributed import TCPStore
    from torch.distributed.rendezvous import rendezvous

    if here.started_by_dbrun:
        store: Store = TCPStore(here.address, here.port, None, False, JOIN_TIMEOUT, wait_for_workers=False)
    else:
        store, _, _ = next(rendezvous("env://", here.rank, here.size, timeout=JOIN_TIMEOUT))
    return ControlChannel(store, here.size)


class DistributedProcessGroup(ProcessGroup):
    """A process's part in one turn. check_peers: raises where another process is gone."""

    def __init__(self, rank: int, size: int, local: int, channel: ControlChannel, stage_number: int,
                 check_peers: Callable[[], None]) -> None:
        super().__init__(rank, size, local)
        self.channel, self.stage_number, self.check_peers = channel, stage_number, check_peers
        self._last_check = 0.0

    def count_done(self, more: int = 0) -> int:
        """How many items all together have made in this turn, after adding so many."""
        return self.channel.count(f"made in turn {self.stage_number}", more)

    def check_alive(self) -> None:
        """Look, but not so often that it costs anything."""
        if time.monotonic() - self._last_check > CHECK_INTERVAL:
            self._last_check = time.monotonic()
            self.check_peers()
