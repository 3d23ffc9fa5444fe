"""Which pictures, noise and timesteps does a micro-batch hold?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from dbrun.models.base import Condition, Drawn, Randn
from dbrun.options.timesteps import UNIFORM, Timesteps
from dbrun.training import sampler
from dbrun.training.caption_sampling import AS_WRITTEN, Varied
from dbrun.training.device import generator
from dbrun.training.noise import WHITE, Noise
from dbrun.training.sampler import Epoch, Row


class Batch(NamedTuple):
    """A micro-batch: instance rows first, then class rows.

    x0, noise: float32 [B, C, h, w]; t: int64 [B]; prompts: index of each row's prompt; instances: how many rows
    are instance pictures; hints: what the denoiser is told of each picture beside its prompt; added: the noise that
    x0 gets, where it is another than the one to be predicted; counts: how much each place counts in the loss,
    [B, 1, h, w] and at least 0, where not all count alike; apart: the class rows, where they have another shape.
    """

    x0: Tensor
    noise: Tensor
    t: Tensor
    prompts: tuple[int, ...]
    instances: int
    hints: Condition = MappingProxyType({})
    added: Tensor | None = None
    counts: Tensor | None = None
    apart: Batch | None = None


@dataclass(frozen=True)
class Pictures:
    """One half of the pictures. name: instance or class; stored: what draws start from; prompts: an index each.

    ways: for each picture those of `stored` that show it, where it can be seen in several ways (crops, mirrored),
    all of one shape; repeats: how often an epoch shows each; counts: of stored -> how much each place counts, [h, w];
    varied: how a picture's prompt differs from draw to draw.
    """

    name: str
    stored: Sequence[Tensor]
    prompts: Sequence[int]
    ways: Sequence[Sequence[int]] | None = None
    repeats: Sequence[int] | None = None
    counts: Mapping[int, Tensor] = field(default_factory=dict)
    varied: Varied = AS_WRITTEN

    def ways_of(self, picture: int) -> Sequence[int]:
        """Those of `stored` that show this picture."""
        return (picture,) if self.ways is None else self.ways[picture]

    def shape(self, picture: int) -> torch.Size:
        """The shape in which this picture is stored."""
        return self.stored[self.ways_of(picture)[0]].shape

    def epoch(self, seed: int) -> Epoch:
        """What an epoch shows."""
        repeats = self.repeats or [1] * len(self.prompts)
        pictures = tuple(i for i, n in enumerate(repeats) for _ in range(n))
        return Epoch(seed, self.name, pictures, tuple(tuple(self.shape(i)) for i in pictures))


class Shown(NamedTuple):
    """A row of a micro-batch: a picture of a half, at its place, in one of its ways."""

    half: Pictures
    row: Row
    way: int


@dataclass(frozen=True)
class Batches:
    """Every micro-batch as a pure function of its address, so that a resumed run draws what an unbroken one did.

    Each draw belongs to a position in the row of all that a half shows, so that of pictures of one shape 2 x 3
    accumulated ones are the same six as one batch of 6. A half's rows have one shape; where the two halves differ
    in it, the class rows stand apart. size: pictures per half; timesteps: T; draw: the family's, from what is
    stored of the rows; times: which timesteps; noise: which noise.
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
        shown = [self._shown(half, epoch, micro_batch)
                 for half, epoch in zip(self.halves, self._epochs, strict=True)]
        instances = len(shown[0])
        if len({half.stored[way].shape for half, _, way in chain(*shown)}) == 1:
            return self._batch([*chain(*shown)], instances)
        return self._batch(shown[0], instances)._replace(apart=self._batch(shown[1], 0))

    def looked_at(self, picture: int, place: int, draws: int) -> Batch:
        """An instance picture that is held out, as often as `draws`, at timesteps that are spread evenly.

        Its draws' addresses follow from its place among the held-out ones, so that every look is at the same.
        """
        half = replace(self.halves[0], name="held out", varied=AS_WRITTEN)
        shown = [Shown(half, Row(picture, place * draws + i), half.ways_of(picture)[0]) for i in range(draws)]
        t = torch.tensor([int((i + 0.5) * self.timesteps / draws) for i in range(draws)])
        return self._batch(shown, draws)._replace(t=t)

    @cached_property
    def _epochs(self) -> Sequence[Epoch]:
        return [half.epoch(self.seed) for half in self.halves]

    def _shown(self, half: Pictures, epoch: Epoch, micro_batch: int) -> list[Shown]:
        return [Shown(half, row, self._way(half, row)) for row in sampler.rows(epoch, self.size, micro_batch)]

    def _way(self, half: Pictures, row: Row) -> int:
        ways = half.ways_of(row.picture)
        if len(ways) == 1:
            return ways[0]
        return ways[int(torch.randint(len(ways), (1,), generator=self._at(half, row, "way")))]

    def _batch(self, shown: Sequence[Shown], instances: int) -> Batch:
        """Rows of one shape."""
        def randn(purpose: str, shape: Sequence[int]) -> Tensor:
            return torch.stack([torch.randn(tuple(shape), generator=self._at(half, row, purpose))
                                for half, row, _ in shown])

        x0, hints = self.draw(torch.stack([half.stored[way] for half, _, way in shown]), randn)
        t = torch.cat([self.times.draw(self.timesteps, self._at(half, row, "timestep")) for half, row, _ in shown])
        noise = [self.noise(x0.shape[1:], partial(self._at, half, row)) for half, row, _ in shown]
        prompts = tuple(half.varied.prompt(half.prompts[row.picture], row.picture, partial(self._at, half, row))
                        for half, row, _ in shown)
        added = torch.stack([put for _, put in noise]) if self.noise.perturbation else None
        return Batch(x0, torch.stack([target for target, _ in noise]), t, prompts, instances, hints, added,
                     _counts(shown, x0))

    def _at(self, half: Pictures, row: Row, purpose: str) -> torch.Generator:
        return generator(self.seed, purpose, half.name, row.position)


def _counts(shown: Sequence[Shown], x0: Tensor) -> Tensor | None:
    """How much each place of x0 counts; None where all count alike."""
    if not any(way in half.counts for half, _, way in shown):
        return None
    everything = torch.ones(x0.shape[-2:])
    return torch.stack([half.counts.get(way, everything)[None] for half, _, way in shown])
