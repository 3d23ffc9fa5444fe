"""How do several processes make one step, so that how many they are changes no bit of it?"""

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
"""Numbers that are sent at once, at most: 64 MiB."""
MIN_POLL_INTERVAL, MAX_POLL_INTERVAL = 1e-4, 5e-3
"""Seconds between two looks at whether the others have answered."""


@dataclass(frozen=True)
class GradientSync:
    """The processes that share a training. A step's micro-batches are its slots; slot s belongs to process s mod size.

    Every process computes the gradients of its own slots alone, is given those of all others, and adds all up in the
    order of the slots. So each holds to the bit the sum that one process would have accumulated, takes the same step,
    and no weight needs to be sent. The group is that of `torch.distributed`, and there is none where size is 1.
    check_alive: called while the others are waited for; raises where they will not answer.
    """

    rank: int = 0
    size: int = 1
    check_alive: Callable[[], None] = lambda: None

    def slots(self, accumulation: int) -> range:
        """The slots of a step that are this process's own. accumulation: all of them, a multiple of size."""
        if accumulation % self.size:
            raise StageFailed(f"{accumulation} micro-batches cannot be dealt evenly to {self.size} processes",
                              fix=f"make `train.accumulation` a multiple of {self.size}")
        return range(self.rank, accumulation, self.size)

    def gradient_sum(self, parameters: Sequence[nn.Parameter]) -> GradientSum:
        """An empty sum of these parameters' gradients."""
        return GradientSum(parameters) if self.size == 1 else GatheredGradientSum(parameters, self)

    def broadcast(self, value: float) -> float:
        """The number that process 0 holds."""
        return self.all_gather(torch.tensor([value], dtype=torch.float64))[0].item() if self.size > 1 else value

    def check_equal(self, value: int, what: str) -> None:
        """Raise StageFailed where the processes do not all hold the same number. what: the words for it."""
        if self.size > 1 and len(numbers := {int(one) for one in self.all_gather(torch.tensor([value]))}) > 1:
            raise StageFailed(f"the processes of this run are not at one: {what} {sorted(numbers)}",
                              fix="let all of them see the same store (DBRUN_STORE)")

    def all_gather(self, mine: Tensor) -> list[Tensor]:
        """Every process's tensor of this shape and type, on the CPU, in the order of the processes.

        Raises ProcessLost where one is gone.
        """
        theirs = [torch.empty_like(mine, device="cpu") for _ in range(self.size)]
        try:
            # asked for and then looked at, so that a signal or a lost process ends the wait
            work, pause = distributed.all_gather(theirs, mine.cpu().contiguous(), async_op=True), MIN_POLL_INTERVAL
            while not work.is_completed():
                self.check_alive()
                time.sleep(pause)
                pause = min(2 * pause, MAX_POLL_INTERVAL)
            work.wait()
        except RuntimeError as error:
            raise ProcessLost(f"another process of this run does not answer: {error}") from error
        return theirs


SINGLE_PROCESS = GradientSync()
"""One process trains."""


class GradientSum:
    """The sum of the gradients of a step's slots, where one process has them all: autograd adds them up itself."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        # one that has stopped learning has no gradient anywhere
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]

    def add(self, loss: Loss) -> list[Loss]:
        """Take in the gradients of the slot that was just computed; the losses of that turn's slots, in order."""
        return [loss]

    def write_grads(self) -> None:
        """Let each parameter's `grad` be the sum."""


class GatheredGradientSum(GradientSum):
    """The same where the slots lie with several processes, which all call `add` equally often."""

    def __init__(self, parameters: Sequence[nn.Parameter], gradient_sync: GradientSync) -> None:
        super().__init__(parameters)
        self.gradient_sync = gradient_sync
        self.sums: list[Tensor | None] = [None] * len(self.parameters)

    def add(self, loss: Loss) -> list[Loss]:
        """Take in a slot of every process, in the order of the processes."""
        parts = [math.nan if part is None else part.item() for part in loss]
        reached = [parameter.grad is not None for parameter in self.parameters]
        heads = self.gradient_sync.all_gather(torch.tensor([*parts, *reached], dtype=torch.float32))
        for bucket in self._buckets():
            flat = torch.cat([self._local_grad(index).reshape(-1) for index in bucket])
            sizes = [self.parameters[index].numel() for index in bucket]
            for head, theirs in zip(heads, self.gradient_sync.all_gather(flat), strict=True):
                for index, gradient in zip(bucket, torch.split(theirs, sizes), strict=True):
                    if head[len(parts) + index]:
                        self._accumulate(index, gradient)
        for parameter in self.parameters:
            parameter.grad = None
        return [_as_loss(head[:len(parts)], loss) for head in heads]

    def write_grads(self) -> None:
        """Let each parameter's `grad` be the sum; None where no slot reached it."""
        for parameter, total in zip(self.parameters, self.sums, strict=True):
            parameter.grad = total

    def _local_grad(self, index: int) -> Tensor:
        parameter = self.parameters[index]
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    def _accumulate(self, index: int, gradient: Tensor) -> None:
        parameter, total = self.parameters[index], self.sums[index]
        gradient = gradient.view_as(parameter).to(parameter.device)
        # a part of the bucket would keep the whole of it
        self.sums[index] = gradient.clone() if total is None else total.add_(gradient)

    def _buckets(self) -> Iterator[list[int]]:
        bucket: list[int] = []
        held = 0
        for index, parameter in enumerate(self.parameters):
            if bucket and held + parameter.numel() > BUCKET_SIZE:
                yield bucket
                bucket, held = [], 0
            bucket.append(index)
            held += parameter.numel()
        yield bucket


def _as_loss(head: Tensor, like: Loss) -> Loss:
    total, instance, prior = head.to(like.total.device)
    return Loss(total, instance, None if like.prior is None else prior)
