"""Which pictures, noise and timesteps does a micro-batch hold?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from dbrun.choices.timesteps import UNIFORM, Timesteps
from dbrun.families.base import Condition, Drawn, Randn
from dbrun.training.device import generator
from dbrun.training.noise import WHITE, Noise


class Batch(NamedTuple):
    """A micro-batch: instance rows first, then class rows.

    x0, noise: float32 [B, C, h, w]; t: int64 [B]; prompts: index of each row's prompt; instances: how many rows
    are instance pictures; hints: what the denoiser is told of each picture beside its prompt; added: the noise that
    x0 gets, where it is another than the one to be predicted.
    """

    x0: Tensor
    noise: Tensor
    t: Tensor
    prompts: tuple[int, ...]
    instances: int
    hints: Condition = MappingProxyType({})
    added: Tensor | None = None


@dataclass(frozen=True)
class Pictures:
    """One half of the pictures. name: instance or class; stored: what draws start from; prompts: an index each."""

    name: str
    stored: Sequence[Tensor]
    prompts: Sequence[int]


@dataclass(frozen=True)
class Batches:
    """Every micro-batch as a pure function of its address, so that a resumed run draws what an unbroken one did.

    A half's pictures come in shuffled epochs that run on across micro-batches; each draw belongs to a position in
    that row, so that 2 x 3 accumulated pictures are the same six as one batch of 6. size: pictures per half;
    timesteps: T; draw: the family's, from what is stored of the rows; times: which timesteps; noise: which noise.
    """

    halves: Sequence[Pictures]
    seed: int
    size: int
    timesteps: int
    draw: Callable[[Tensor, Randn], Drawn]
    times: Timesteps = UNIFORM
    noise: Noise = WHITE

    def __call__(self, micro_batch: int) -> Batch:
        """The micro-batch of this number, counted from 0 over the whole training."""
        positions = range(micro_batch * self.size, (micro_batch + 1) * self.size)
        rows = [(half, position) for half in self.halves for position in positions]
        pictures = [self._picture(half, position) for half, position in rows]

        def randn(purpose: str, shape: Sequence[int]) -> Tensor:
            return torch.stack([torch.randn(tuple(shape), generator=self._at(half, position, purpose))
                                for half, position in rows])

        x0, hints = self.draw(torch.stack([half.stored[i] for (half, _), i in zip(rows, pictures, strict=True)]), randn)
        t = torch.cat([self.times.draw(self.timesteps, self._at(half, position, "timestep"))
                       for half, position in rows])
        noise = [self.noise(x0.shape[1:], partial(self._at, half, position)) for half, position in rows]
        prompts = tuple(half.prompts[i] for (half, _), i in zip(rows, pictures, strict=True))
        added = torch.stack([row for _, row in noise]) if self.noise.perturbation else None
        return Batch(x0, torch.stack([row for row, _ in noise]), t, prompts, self.size, hints, added)

    def _picture(self, half: Pictures, position: int) -> int:
        epoch, place = divmod(position, len(half.stored))
        return _order(self.seed, half.name, epoch, len(half.stored))[place]

    def _at(self, half: Pictures, position: int, purpose: str) -> torch.Generator:
        return generator(self.seed, purpose, half.name, position)


@lru_cache(maxsize=16)
def _order(seed: int, half: str, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(torch.randperm(count, generator=generator(seed, "order", half, epoch)).tolist())
