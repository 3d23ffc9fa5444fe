"""Gradient exchange between processes: exact, with the same bits for any number of them, or fast, by an all-reduce."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from dbrun.diffusion.losses import Loss
from dbrun.errors import ProcessLost, StageFailed

BUCKET_SIZE = 2**24
"""The most float32 numbers that are sent at once: 64 MiB."""
MIN_POLL_INTERVAL, MAX_POLL_INTERVAL = 1e-4, 5e-3
"""Seconds between two checks of whether the other processes have answered."""
NOTHING = -0.0
"""What stands for a missing gradient in a message: x + -0.0 is x, also where x is -0.0."""


@dataclass(frozen=True)
class GradientSync:
    """The processes that share a training; they talk through the default group of `torch.distributed`.

    A step's micro-batches are its slots; slot s belongs to the process with rank s mod size. Each process computes the
    gradients of its own slots, and gets the sum of all.
    rank: of this process; size: how many processes; 1 needs no process group. check_alive: called while waiting for the
    others; raises where one of them is gone. fast: add the slots of a process first, then those sums by an all-reduce:
    less is sent, but the last bits depend on the number of processes.
    """

    rank: int = 0
    size: int = 1
    check_alive: Callable[[], None] = lambda: None
    fast: bool = False

    def slots(self, accumulation: int) -> range:
        """The slots of a step that belong to this process. accumulation: the number of all slots.

        Raises StageFailed unless accumulation is a multiple of size.
        """
        if accumulation % self.size:
            raise StageFailed(f"{accumulation} micro-batches cannot be split evenly over {self.size} processes",
                              fix=f"make `train.accumulation` a multiple of {self.size}")
        return range(self.rank, accumulation, self.size)

    def gradient_sum(self, parameters: Sequence[nn.Parameter]) -> GradientSum:
        """A new, empty gradient sum for one step over these parameters."""
        if self.size == 1:
            return GradientSum()
        # frozen parameters (a component past its `stop_at`) are frozen in every process: nobody sends them
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        return AllReducedSum(trained, self) if self.fast else OrderedSum(trained, self)

    def broadcast(self, value: float) -> float:
        """The value of process 0, in every process."""
        if self.size == 1:
            return value
        values = self.all_gather(torch.tensor([value], dtype=torch.float64))
        return values[0].item()

    def check_equal(self, value: int, what: str) -> None:
        """Raise StageFailed unless all processes hold the same value. what: what it is, for the error."""
        if self.size == 1:
            return
        values = {int(one) for one in self.all_gather(torch.tensor([value]))}
        if len(values) > 1:
            raise StageFailed(f"the processes of this run do not agree on {what}: {sorted(values)}",
                              fix="let all of them see the same store (DBRUN_STORE)")

    # each of these raises ProcessLost where a process is gone

    def all_gather(self, mine: Tensor) -> list[Tensor]:
        """The tensor of each process, by rank. mine: [N] in CPU memory, of the same length and dtype in each."""
        theirs = [torch.empty_like(mine) for _ in range(self.size)]
        self._wait(lambda: distributed.all_gather(theirs, mine, async_op=True))
        return theirs

    def exchange_shards(self, flat: Tensor) -> Tensor:
        """The shard of this process in the tensor of each process, [size, N], by rank. flat: [size * N]."""
        theirs = torch.empty_like(flat)
        self._wait(lambda: distributed.all_to_all_single(theirs, flat, async_op=True))
        return theirs.view(self.size, -1)

    def join_shards(self, shard: Tensor) -> Tensor:
        """The shards of all processes in one tensor [size * N], by rank. shard: [N], of this process."""
        flat = shard.new_empty(self.size * len(shard))
        parts = list(flat.view(self.size, -1))
        self._wait(lambda: distributed.all_gather(parts, shard, async_op=True))
        return flat

    def all_reduce(self, flat: Tensor) -> None:
        """Replace a tensor [N] by the sum over all processes, in the order that the library chooses."""
        self._wait(lambda: distributed.all_reduce(flat, async_op=True))

    def _wait(self, start: Callable[[], distributed.Work | None]) -> None:
        """Start an exchange, and wait until it is done."""
        try:
            # asynchronous and polled: a blocking call would hear neither a signal nor that a process is gone
            work = start()
            assert work is not None, "asked for asynchronously"
            pause = MIN_POLL_INTERVAL
            while not work.is_completed():
                self.check_alive()
                time.sleep(pause)
                pause = min(2 * pause, MAX_POLL_INTERVAL)
            work.wait()
        except RuntimeError as error:
            raise ProcessLost(f"another process of this run does not answer: {error}") from error


SINGLE_PROCESS = GradientSync()
"""A training in one process."""


class GradientSum:
    """The gradient sum of a step in a single process: autograd itself adds the slots up in each parameter's `grad`.

    losses: of this process's slots, in order.
    """

    def __init__(self) -> None:
        self.losses: list[Loss] = []

    def add(self, loss: Loss) -> None:
        """Add the gradients of the slot that was just computed. Every process must call it equally often."""
        self.losses.append(loss)

    def finish(self) -> list[Loss]:
        """Set each parameter's `grad` to the sum over all slots, and return the losses of all slots, in order.

        The `grad` is None where no slot of any process gave a gradient.
        """
        return self.losses


class SharedSum(GradientSum):
    """What both sums over several processes do: send the gradients in buckets, and say which parameters have one."""

    def __init__(self, parameters: Sequence[nn.Parameter], gradient_sync: GradientSync) -> None:
        super().__init__()
        self.parameters, self.gradient_sync = parameters, gradient_sync
        self.buckets = list(_buckets(parameters))
        self.reached = [False] * len(parameters)

    def add(self, loss: Loss) -> None:
        """Add a slot of this process."""
        super().add(loss)
        for index, parameter in enumerate(self.parameters):
            self.reached[index] |= parameter.grad is not None

    def finish(self) -> list[Loss]:
        """Set each parameter's `grad`, and return the losses of all slots of all processes, in order."""
        # header of this process: total, instance and prior loss of each slot, then for each parameter whether it has a
        # gradient: zeros that only fill a message must not turn "no gradient" into a gradient of 0, since an optimizer
        # skips the one and decays the weight under the other
        rows = torch.stack([_as_row(loss) for loss in self.losses]).cpu()
        header = torch.cat([rows.reshape(-1), torch.tensor(self.reached, dtype=torch.float32)])
        headers = torch.stack(self.gradient_sync.all_gather(header))
        reached = headers[:, rows.numel():].any(dim=0).tolist()

        for number, bucket in enumerate(self.buckets):
            parameters = [self.parameters[index] for index in bucket]
            sizes = [parameter.numel() for parameter in parameters]
            # what fills the bucket up to a multiple of the processes falls away
            total = self._total(number)[: sum(sizes)].to(parameters[0].device)
            for index, parameter, part in zip(bucket, parameters, torch.split(total, sizes), strict=True):
                parameter.grad = part.view_as(parameter) if reached[index] else None

        # slot after slot, and in each the processes by rank
        by_slot = headers[:, : rows.numel()].view(self.gradient_sync.size, *rows.shape).transpose(0, 1)
        like = self.losses[0]
        return [_as_loss(row.to(like.total.device), like) for row in by_slot.reshape(-1, rows.shape[1])]

    def _total(self, number: int) -> Tensor:
        """The sum of a bucket over all slots, flat: the parameters of the bucket one after the other."""
        raise NotImplementedError

    def _flat_gradient(self, number: int) -> Tensor:
        """The gradients of a bucket that this process has now, flat, filled up to a multiple of the processes."""
        parts: list[Tensor] = []
        for index in self.buckets[number]:
            parameter = self.parameters[index]
            gradient = torch.full_like(parameter, NOTHING) if parameter.grad is None else parameter.grad
            parts.append(gradient.reshape(-1))
        missing = -sum(part.numel() for part in parts) % self.gradient_sync.size
        parts.append(parts[0].new_zeros(missing))
        flat = torch.cat(parts)
        # gloo sends from CPU memory
        return flat if "cuda:nccl" in distributed.get_backend_config() else flat.cpu()


class OrderedSum(SharedSum):
    """The gradient sum in the order of the slots, which gives the bits that one process alone would accumulate.

    An all-reduce would add in an order that depends on the number of processes, and floating-point sums depend on their
    order. All processes take the same optimizer step, so that no weights need to be sent.
    """

    # Each process adds up one shard of the gradient and sends the sum to the others: a process receives
    # (size - 1) / size of a gradient for each of its slots and once more for a step, where a gather of whole gradients
    # would receive size - 1 of them for each of its slots.

    def __init__(self, parameters: Sequence[nn.Parameter], gradient_sync: GradientSync) -> None:
        super().__init__(parameters, gradient_sync)
        self.shards: list[Tensor | None] = [None] * len(self.buckets)

    def add(self, loss: Loss) -> None:
        """Add one slot of every process, by rank."""
        super().add(loss)
        for number in range(len(self.buckets)):
            for theirs in self.gradient_sync.exchange_shards(self._flat_gradient(number)):
                shard = self.shards[number]
                if shard is None:
                    # a copy: the row would keep those of the others in memory
                    self.shards[number] = theirs.clone()
                else:
                    shard.add_(theirs)
        # autograd adds to what is there: the next slot starts from nothing
        for parameter in self.parameters:
            parameter.grad = None

    def _total(self, number: int) -> Tensor:
        shard, self.shards[number] = self.shards[number], None
        assert shard is not None, "a step has a slot"
        return self.gradient_sync.join_shards(shard)


class AllReducedSum(SharedSum):
    """The gradient sum by one all-reduce a step: autograd adds the slots of this process, the library the processes."""

    def _total(self, number: int) -> Tensor:
        total = self._flat_gradient(number)
        self.gradient_sync.all_reduce(total)
        return total


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[int]]:
    """The indices of the parameters, grouped so that each group holds at most BUCKET_SIZE numbers."""
    bucket: list[int] = []
    held = 0
    for index, parameter in enumerate(parameters):
        if bucket and held + parameter.numel() > BUCKET_SIZE:
            yield bucket
            bucket, held = [], 0
        bucket.append(index)
        held += parameter.numel()
    if bucket:
        yield bucket


def _as_row(loss: Loss) -> Tensor:
    """Total, instance and prior loss, float32 [3]; nan for a prior that there is none of."""
    total = loss.total.detach().float()
    prior = torch.full_like(total, math.nan) if loss.prior is None else loss.prior.detach().float()
    return torch.stack([total, loss.instance.detach().float(), prior])


def _as_loss(row: Tensor, like: Loss) -> Loss:
    """The loss of a row [3]; without a prior where `like` has none."""
    total, instance, prior = row
    if like.prior is None:
        return Loss(total, instance, None)
    return Loss(total, instance, prior)
