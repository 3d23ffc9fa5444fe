"""Gradient exchange between processes; the result of a step is the same, bit for bit, for any number of them."""

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


@dataclass(frozen=True)
class GradientSync:
    """The processes that share a training; they talk through the default group of `torch.distributed`.

    A step's micro-batches are its slots; slot s belongs to the process with rank s mod size. Each process computes the
    gradients of its own slots, receives those of the others, and adds all of them in the order of the slots.
    rank: of this process; size: how many processes; 1 needs no process group. check_alive: called while waiting for the
    others; raises where one of them is gone.
    """

    # An all-reduce would add in an order that depends on the number of processes, and floating-point sums depend on
    # their order. Adding in slot order gives every process the bits that one process alone would accumulate; all take
    # the same optimizer step, so that no weights need to be sent.

    rank: int = 0
    size: int = 1
    check_alive: Callable[[], None] = lambda: None

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
        return GatheredGradientSum(parameters, self)

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

    def all_gather(self, mine: Tensor) -> list[Tensor]:
        """The tensor of each process, on the CPU, by rank. mine: [N], of the same length and dtype in every process.

        Raises ProcessLost where a process is gone.
        """
        theirs = [torch.empty_like(mine, device="cpu") for _ in range(self.size)]
        try:
            # asynchronous and polled: a blocking call would hear neither a signal nor that a process is gone
            work = distributed.all_gather(theirs, mine.cpu().contiguous(), async_op=True)
            pause = MIN_POLL_INTERVAL
            while not work.is_completed():
                self.check_alive()
                time.sleep(pause)
                pause = min(2 * pause, MAX_POLL_INTERVAL)
            work.wait()
        except RuntimeError as error:
            raise ProcessLost(f"another process of this run does not answer: {error}") from error
        return theirs


SINGLE_PROCESS = GradientSync()
"""A training in one process."""


class GradientSum:
    """The gradient sum of a step in a single process: autograd itself adds the slots up in each parameter's `grad`."""

    def add(self, loss: Loss) -> list[Loss]:
        """Add the gradients of the slot that was just computed.

        Returns the losses of all slots that were added: one for each process, by rank.
        """
        return [loss]

    def write_grads(self) -> None:
        """Set each parameter's `grad` to the sum; autograd has already done so."""


class GatheredGradientSum(GradientSum):
    """The gradient sum of a step over several processes, which must all call `add` equally often."""

    def __init__(self, parameters: Sequence[nn.Parameter], gradient_sync: GradientSync) -> None:
        # frozen parameters (a component past its `stop_at`) are frozen in every process: nobody sends them
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.gradient_sync = gradient_sync
        self.sums: list[Tensor | None] = [None] * len(self.parameters)

    def add(self, loss: Loss) -> list[Loss]:
        """Add one slot of every process, by rank, and return their losses."""
        # header of this process: total, instance and prior loss, then for each parameter whether it has a gradient
        losses = [math.nan if part is None else part.item() for part in loss]
        has_grad = [parameter.grad is not None for parameter in self.parameters]
        headers = self.gradient_sync.all_gather(torch.tensor([*losses, *has_grad], dtype=torch.float32))

        # gradients, many parameters in one message
        for bucket in self._buckets():
            flat = torch.cat([self._local_grad(index).reshape(-1) for index in bucket])
            sizes = [self.parameters[index].numel() for index in bucket]
            by_rank = self.gradient_sync.all_gather(flat)
            for header, theirs in zip(headers, by_rank, strict=True):
                for index, gradient in zip(bucket, torch.split(theirs, sizes), strict=True):
                    # zeros that only fill the message must not turn "no gradient" into a gradient of 0: the optimizer
                    # skips the one and decays the weight under the other
                    if header[len(losses) + index]:
                        self._accumulate(index, gradient)

        # autograd adds to what is there: the next slot starts from nothing
        for parameter in self.parameters:
            parameter.grad = None
        return [_as_loss(header[:len(losses)], loss) for header in headers]

    def write_grads(self) -> None:
        """Set each parameter's `grad` to the sum; None where no slot of any process gave it a gradient."""
        for parameter, total in zip(self.parameters, self.sums, strict=True):
            parameter.grad = total

    def _local_grad(self, index: int) -> Tensor:
        """The gradient of a parameter in this process, shaped as the parameter; zeros where it has none."""
        parameter = self.parameters[index]
        if parameter.grad is None:
            return torch.zeros_like(parameter)
        return parameter.grad

    def _accumulate(self, index: int, gradient: Tensor) -> None:
        """Add a flat gradient to the sum of its parameter."""
        parameter, total = self.parameters[index], self.sums[index]
        gradient = gradient.view_as(parameter).to(parameter.device)
        if total is None:
            # a copy: the gradient is a view that would keep the whole bucket in memory
            self.sums[index] = gradient.clone()
        else:
            total.add_(gradient)

    def _buckets(self) -> Iterator[list[int]]:
        """The indices of the parameters, grouped so that each group holds at most BUCKET_SIZE numbers."""
        bucket: list[int] = []
        held = 0
        for index, parameter in enumerate(self.parameters):
            if bucket and held + parameter.numel() > BUCKET_SIZE:
                yield bucket
                bucket, held = [], 0
            bucket.append(index)
            held += parameter.numel()
        yield bucket


def _as_loss(header: Tensor, like: Loss) -> Loss:
    """The loss in the first three numbers of a header; without a prior where `like` has none."""
    total, instance, prior = header.to(like.total.device)
    if like.prior is None:
        return Loss(total, instance, None)
    return Loss(total, instance, prior)
