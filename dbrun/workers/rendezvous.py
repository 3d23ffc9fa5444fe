"""Rendezvous of the processes of a run: a control channel over torch's TCPStore, and the group that shares a stage."""

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
"""Time that a process waits for the others to start."""
STEP_TIMEOUT = timedelta(hours=6)
"""Time that a step may wait for the slowest process, which may draw samples or write to a slow disk meanwhile."""
CHECK_INTERVAL = 0.2
"""Seconds between two checks of the other processes; training calls `check_alive` at every step."""


@dataclass
class ControlChannel:
    """Messages and counters that every process of a run sees.

    Messages are JSON, never pickle: whoever reaches the port can write to it. size: number of processes. All methods
    raise RuntimeError once process 0, which holds the store, is gone.
    """

    store: Store
    size: int
    _read_counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, more: int = 0) -> int:
        """Add `more` to a counter; return its new value. The store does this atomically."""
        return self.store.add(name, more)

    def post(self, name: str, words: Mapping[str, object]) -> None:
        """Append a message to the queue of this name."""
        # `add` gives every message a number of its own, so processes that post at once do not overwrite each other
        number = self.store.add(f"{name} places", 1)
        self.store.set(f"{name} {number}", json.dumps(words))

    def new_messages(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the messages of a queue that this process has not read yet, in the order of their numbers."""
        while True:
            number = self._read_counts.get(name, 0) + 1
            # a number is taken before its message is set, and `get` would block: so `check` first
            if not self.store.check([f"{name} {number}"]):
                return
            self._read_counts[name] = number
            yield json.loads(self.store.get(f"{name} {number}"))

    def announce_stage(self, brief: Mapping[str, object]) -> int:
        """Tell all processes which stage to share next; return the number of the turn, from 1."""
        self.post("brief", brief)
        return self.count("brief places")

    def announce_end(self) -> None:
        """Tell all processes that the run is over."""
        self.count("over", 1)

    @property
    def is_over(self) -> bool:
        """Whether process 0 has ended the run."""
        return self.count("over") > 0

    def leave_group(self) -> None:
        """Leave the group in which tensors are exchanged, if this process has joined it."""
        from torch import distributed

        group = distributed.group.WORLD
        if group is not None:
            # NCCL's destroy would wait for an exchange with a process that is gone
            group.abort()
            distributed.destroy_process_group()

    def join_group(self, rank: int) -> None:
        """Join the group in which tensors are exchanged; blocks until all have joined. Rank 0 lets the others begin."""
        import torch
        from torch import distributed

        if rank == 0:
            self.count("meet", 1)
        has_nccl = torch.cuda.is_available() and distributed.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"
        distributed.init_process_group(backend, store=distributed.PrefixStore("group", self.store), rank=rank,
                                       world_size=self.size, timeout=STEP_TIMEOUT)


def create_channel(size: int) -> tuple[ControlChannel, int]:
    """New channel for `size` processes of this machine, and its port. Only this machine can reach it."""
    from torch.distributed import TCPStore

    # port 0: the system picks a free one, so that several runs on a machine never collide
    store = TCPStore("127.0.0.1", 0, None, True, JOIN_TIMEOUT, wait_for_workers=False)
    return ControlChannel(store, size), store.port


def connect_channel(here: DistributedEnv) -> ControlChannel:
    """Channel of a run that process 0 or a launcher opened. Waits at most JOIN_TIMEOUT."""
    from torch.distributed import TCPStore
    from torch.distributed.rendezvous import rendezvous

    if here.started_by_dbrun or here.started_by_srun:
        # where dbrun started the others, process 0 has opened the store before and does not come here
        opens = here.rank == 0
        store: Store = TCPStore(here.address, here.port, None, opens, JOIN_TIMEOUT, wait_for_workers=False)
    else:
        # torch's own rendezvous: torchrun's agent may hold the store itself
        store, _, _ = next(rendezvous("env://", here.rank, here.size, timeout=JOIN_TIMEOUT))
    return ControlChannel(store, here.size)


class DistributedProcessGroup(ProcessGroup):
    """Place of a process in one shared stage.

    local: rank on its machine; stage_number: number of the turn; check_peers: raises if another process is gone.
    """

    def __init__(self, rank: int, size: int, local: int, channel: ControlChannel, stage_number: int,
                 check_peers: Callable[[], None]) -> None:
        super().__init__(rank, size, local)
        self.channel, self.stage_number, self.check_peers = channel, stage_number, check_peers
        self._last_check = 0.0

    def count_done(self, more: int = 0) -> int:
        """Number of items that all processes have made in this turn, after adding `more`."""
        return self.channel.count(f"made in turn {self.stage_number}", more)

    def check_alive(self) -> None:
        """Check the other processes, at most once in CHECK_INTERVAL, so that it costs nothing per step."""
        if time.monotonic() - self._last_check > CHECK_INTERVAL:
            self._last_check = time.monotonic()
            self.check_peers()
