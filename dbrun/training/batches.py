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

from dbrun.models.base import CleanBatch, Condition, Randn
from dbrun.options.timesteps import UNIFORM, TimestepDistribution
from dbrun.training import sampler
from dbrun.training.caption_sampling import FIXED_CAPTIONS, CaptionSampler
from dbrun.training.device import generator
from dbrun.training.noise import WHITE, Noise
from dbrun.training.sampler import Epoch, Row


class Batch(NamedTuple):
    """A micro-batch: instance rows first, then class rows.

    x0, noise: float32 [B, C, h, w]; t: int64 [B]; prompts: index of each row's prompt; num_instances: how many rows
    are instance pictures; extra_conditions: what the denoiser is told of each picture beside its prompt; input_noise:
    the noise that x0 gets, where it is another than the one to be predicted; loss_mask: how much each place counts in
    the loss, [B, 1, h, w] and at least 0, where not all count alike;
    class_batch: the class rows, where they have another shape.
    """

    x0: Tensor
    noise: Tensor
    t: Tensor
    prompts: tuple[int, ...]
    num_instances: int
    extra_conditions: Condition = MappingProxyType({})
    input_noise: Tensor | None = None
    loss_mask: Tensor | None = None
    class_batch: Batch | None = None


@dataclass(frozen=True)
class PictureSet:
    """One half of the pictures. name: instance or class; encoded: what draws start from; prompts: an index each.

    crops: for each picture those of `encoded` that show it, where it can be seen in several ways (crops, mirrored),
    all of one shape; repeats: how often an epoch shows each;
    loss_masks: of stored -> how much each place counts, [h, w];
    captions: how a picture's prompt differs from draw to draw.
    """

    name: str
    encoded: Sequence[Tensor]
    prompts: Sequence[int]
    crops: Sequence[Sequence[int]] | None = None
    repeats: Sequence[int] | None = None
    loss_masks: Mapping[int, Tensor] = field(default_factory=dict)
    captions: CaptionSampler = FIXED_CAPTIONS

    def crops_of(self, picture: int) -> Sequence[int]:
        """Those of `encoded` that show this picture."""
        return (picture,) if self.crops is None else self.crops[picture]

    def shape(self, picture: int) -> torch.Size:
        """The shape in which this picture is stored."""
        return self.encoded[self.crops_of(picture)[0]].shape

    def epoch(self, seed: int) -> Epoch:
        """What an epoch shows."""
        repeats = self.repeats or [1] * len(self.prompts)
        pictures = tuple(i for i, n in enumerate(repeats) for _ in range(n))
        return Epoch(seed, self.name, pictures, tuple(tuple(self.shape(i)) for i in pictures))


class BatchRow(NamedTuple):
    """A row of a micro-batch: a picture of a half, at its place, in one of its ways."""

    half: PictureSet
    row: Row
    crop: int


@dataclass(frozen=True)
class Batches:
    """Every micro-batch as a pure function of its address, so that a resumed run draws what an unbroken one did.

    Each draw belongs to a position in the row of all that a half shows, so that of pictures of one shape 2 x 3
    accumulated ones are the same six as one batch of 6. A half's rows have one shape; where the two halves differ
    in it, the class rows stand apart. size: pictures per half; timesteps: T; draw: the family's, from what is
    stored of the rows; timestep_sampling: which timesteps; noise: which noise.
    """

    halves: Sequence[PictureSet]
    seed: int
    size: int
    timesteps: int
    draw: Callable[[Tensor, Randn], CleanBatch]
    timestep_sampling: TimestepDistribution = UNIFORM
    noise: Noise = WHITE

    def __call__(self, micro_batch: int) -> Batch:
        """The micro-batch of this number, counted from 0 over the whole training."""
        shown = [self._rows(half, epoch, micro_batch)
                 for half, epoch in zip(self.halves, self._epochs, strict=True)]
        instances = len(shown[0])
        if len({half.encoded[way].shape for half, _, way in chain(*shown)}) == 1:
            return self._batch([*chain(*shown)], instances)
        return self._batch(shown[0], instances)._replace(class_batch=self._batch(shown[1], 0))

    def held_out_batch(self, picture: int, place: int, draws: int) -> Batch:
        """An instance picture that is held out, as often as `draws`, at timesteps that are spread evenly.

        Its draws' addresses follow from its place among the held-out ones, so that every look is at the same.
        """
        half = replace(self.halves[0], name="held out", captions=FIXED_CAPTIONS)
        shown = [BatchRow(half, Row(picture, place * draws + i), half.crops_of(picture)[0]) for i in range(draws)]
        t = torch.tensor([int((i + 0.5) * self.timesteps / draws) for i in range(draws)])
        return self._batch(shown, draws)._replace(t=t)

    @cached_property
    def _epochs(self) -> Sequence[Epoch]:
        return [half.epoch(self.seed) for half in self.halves]

    def _rows(self, half: PictureSet, epoch: Epoch, micro_batch: int) -> list[BatchRow]:
        return [BatchRow(half, row, self._pick_crop(half, row)) for row in sampler.rows(epoch, self.size, micro_batch)]

    def _pick_crop(self, half: PictureSet, row: Row) -> int:
        ways = half.crops_of(row.picture)
        if len(ways) == 1:
            return ways[0]
        return ways[int(torch.randint(len(ways), (1,), generator=self._generator(half, row, "way")))]

    def _batch(self, shown: Sequence[BatchRow], instances: int) -> Batch:
        """Rows of one shape."""
        def randn(purpose: str, shape: Sequence[int]) -> Tensor:
            return torch.stack([torch.randn(tuple(shape), generator=self._generator(half, row, purpose))
                                for half, row, _ in shown])

        x0, extra_conditions = self.draw(torch.stack([half.encoded[way] for half, _, way in shown]), randn)
        t = torch.cat([self.timestep_sampling.sample(self.timesteps, self._generator(half, row, "timestep"))
                       for half, row, _ in shown])
        noise = [self.noise(x0.shape[1:], partial(self._generator, half, row)) for half, row, _ in shown]
        prompts = tuple(half.captions.draw(half.prompts[row.picture], row.picture, partial(self._generator, half, row))
                        for half, row, _ in shown)
        added = torch.stack([put for _, put in noise]) if self.noise.perturbation else None
        return Batch(x0, torch.stack([target for target, _ in noise]), t, prompts, instances, extra_conditions, added,
                     _loss_mask(shown, x0))

    def _generator(self, half: PictureSet, row: Row, purpose: str) -> torch.Generator:
        return generator(self.seed, purpose, half.name, row.position)


def _loss_mask(shown: Sequence[BatchRow], x0: Tensor) -> Tensor | None:
    """How much each place of x0 counts; None where all count alike."""
    if not any(way in half.loss_masks for half, _, way in shown):
        return None
    everything = torch.ones(x0.shape[-2:])
    return torch.stack([half.loss_masks.get(way, everything)[None] for half, _, way in shown])
