"""Which pictures, noise and timesteps does a micro-batch hold?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from dbrun.training.device import generator


class Batch(NamedTuple):
    """A micro-batch: instance rows first, then class rows.

    x0, noise: float32 [B, C, h, w]; t: int64 [B]; prompts: index of each row's prompt; instances: how many rows
    are instance pictures.
    """

    x0: Tensor
    noise: Tensor
    t: Tensor
    prompts: tuple[int, ...]
    instances: int


@dataclass(frozen=True)
class Pictures:
    """One half of the pictures. name: instance or class; moments: [2C, h, w] each; prompts: an index each."""

    name: str
    moments: Sequence[Tensor]
    prompts: Sequence[int]


@dataclass(frozen=True)
class Batches:
    """Every micro-batch as a pure function of its address, so that a resumed run draws what an unbroken one did.

    A half's pictures come in shuffled epochs that run on across micro-batches; each draw belongs to a position in
    that row, so that 2 x 3 accumulated pictures are the same six as one batch of 6. size: pictures per half;
    timesteps: T; sample: (moments, noise) [B, …] -> x0.
    """

    halves: Sequence[Pictures]
    seed: int
    size: int
    timesteps: int
    sample: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, micro_batch: int) -> Batch:
        """The micro-batch of this number, counted from 0 over the whole training."""
        positions = range(micro_batch * self.size, (micro_batch + 1) * self.size)
        rows = [self._row(half, position) for half in self.halves for position in positions]
        moments, latent_noise, noise, t, prompts = zip(*rows, strict=True)
        x0 = self.sample(torch.stack(moments), torch.stack(latent_noise))
        return Batch(x0, torch.stack(noise), torch.cat(t), prompts, self.size)

    def _row(self, half: Pictures, position: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        epoch, place = divmod(position, len(half.moments))
        picture = _order(self.seed, half.name, epoch, len(half.moments))[place]
        moments = half.moments[picture]
        shape = (moments.shape[0] // 2, *moments.shape[1:])
        latent_noise = torch.randn(shape, generator=generator(self.seed, "latents", half.name, position))
        noise = torch.randn(shape, generator=generator(self.seed, "noise", half.name, position))
        t = torch.randint(self.timesteps, (1,), generator=generator(self.seed, "timestep", half.name, position))
        return moments, latent_noise, noise, t, half.prompts[picture]


@lru_cache(maxsize=16)
def _order(seed: int, half: str, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(torch.randperm(count, generator=generator(seed, "order", half, epoch)).tolist())
