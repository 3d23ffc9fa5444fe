"""A micro-batch: its rows, and the noise, timesteps and prompts that are drawn for each by its address."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from dbrun.images.manifest import StoredPicture
from dbrun.models.base import CleanBatch, Condition, Randn
from dbrun.options.timesteps import UNIFORM, TimestepDistribution
from dbrun.training import sampler
from dbrun.training.caption_sampling import draw_prompt
from dbrun.training.device import generator
from dbrun.training.noise import WHITE, Noise
from dbrun.training.sampler import Epoch


class Batch(NamedTuple):
    """A micro-batch: instance rows first, then class rows.

    x0, noise: float32 [B, C, h, w]; t: int64 [B]; prompts: number of each row's prompt; num_instances: how many rows
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
    """One half of the pictures. name: `instance` or `class`, part of every draw's address.

    latents: crop name -> what draws start from, float32 [C, h, w]; may hold more than these pictures' crops.
    loss_masks: crop name -> how much each place counts, [h, w], where not all count alike; empty_prompt: as in
    `Manifest`.
    """

    name: str
    pictures: Sequence[StoredPicture]
    latents: Mapping[str, Tensor]
    loss_masks: Mapping[str, Tensor] = field(default_factory=dict)
    empty_prompt: int | None = None

    def epoch(self, seed: int) -> Epoch:
        """The pictures of an epoch, each as often as it is repeated."""
        entries: list[int] = []
        for number, picture in enumerate(self.pictures):
            entries += [number] * picture.repeats
        return Epoch(seed, self.name, tuple(entries), tuple(self._shape(entry) for entry in entries))

    def _shape(self, number: int) -> tuple[int, ...]:
        """The shape of a picture's latents, [C, h, w]; all its crops have the same."""
        return tuple(self.latents[self.pictures[number].crops[0]].shape)


class Row(NamedTuple):
    """A row of a micro-batch: a picture of a half, shown in one of its crops. position: its place in the training."""

    half: PictureSet
    picture: StoredPicture
    crop: str
    position: int

    @property
    def latents(self) -> Tensor:
        """What x0 is drawn from, float32 [C, h, w]."""
        return self.half.latents[self.crop]

    @property
    def loss_mask(self) -> Tensor | None:
        """How much each place counts, [h, w]; None where all count alike."""
        return self.half.loss_masks.get(self.crop)


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
        rows_by_half = [self._rows(half, epoch, micro_batch)
                        for half, epoch in zip(self.halves, self._epochs, strict=True)]
        instance_rows = rows_by_half[0]
        every = [row for rows in rows_by_half for row in rows]
        if len({row.latents.shape for row in every}) == 1:
            return self._batch(every, len(instance_rows))
        class_batch = self._batch(rows_by_half[1], 0)
        return self._batch(instance_rows, len(instance_rows))._replace(class_batch=class_batch)

    def held_out_batch(self, picture: int, place: int, draws: int) -> Batch:
        """An instance picture that is held out, as often as `draws`, at timesteps that are spread evenly.

        Its draws' addresses follow from its place among the held-out ones, so that every look is at the same.
        """
        half = replace(self.halves[0], name="held out")
        # always the same crop and prompt: a loss is compared with that of earlier looks
        fixed = replace(half.pictures[picture], variants=(), dropout=0.0)
        rows = [Row(half, fixed, fixed.crops[0], place * draws + i) for i in range(draws)]
        t = torch.tensor([int((i + 0.5) * self.timesteps / draws) for i in range(draws)])
        return self._batch(rows, draws)._replace(t=t)

    @cached_property
    def _epochs(self) -> Sequence[Epoch]:
        return [half.epoch(self.seed) for half in self.halves]

    def _rows(self, half: PictureSet, epoch: Epoch, micro_batch: int) -> list[Row]:
        """The rows of one half."""
        rows: list[Row] = []
        for position, number in sampler.micro_batch(epoch, self.size, micro_batch):
            picture = half.pictures[number]
            crop = self._pick_crop(half, picture, position)
            rows.append(Row(half, picture, crop, position))
        return rows

    def _pick_crop(self, half: PictureSet, picture: StoredPicture, position: int) -> str:
        crops = picture.crops
        if len(crops) == 1:
            return crops[0]
        chosen = torch.randint(len(crops), (1,), generator=generator(self.seed, "way", half.name, position))
        return crops[int(chosen)]

    def _batch(self, rows: Sequence[Row], instances: int) -> Batch:
        """Rows of one shape, as tensors. instances: how many of them are of the instance half."""
        def randn(purpose: str, shape: Sequence[int]) -> Tensor:
            return torch.stack([torch.randn(tuple(shape), generator=self._generator(row, purpose)) for row in rows])

        x0, extra_conditions = self.draw(torch.stack([row.latents for row in rows]), randn)
        t = torch.cat([self.timestep_sampling.sample(self.timesteps, self._generator(row, "timestep"))
                       for row in rows])
        noise = [self.noise(x0.shape[1:], partial(self._generator, row)) for row in rows]
        target = torch.stack([predicted for predicted, _ in noise])
        added = torch.stack([put for _, put in noise]) if self.noise.perturbation else None
        prompts = tuple(draw_prompt(row.picture, row.half.empty_prompt, partial(self._generator, row))
                        for row in rows)
        return Batch(x0, target, t, prompts, instances, extra_conditions, added, _loss_mask(rows, x0))

    def _generator(self, row: Row, purpose: str) -> torch.Generator:
        """The generator of a row's draw for this purpose; no two draws share one."""
        return generator(self.seed, purpose, row.half.name, row.position)


def _loss_mask(rows: Sequence[Row], x0: Tensor) -> Tensor | None:
    """How much each place of x0 counts, [B, 1, h, w]; None where all count alike."""
    masks = [row.loss_mask for row in rows]
    if all(mask is None for mask in masks):
        return None
    everything = torch.ones(x0.shape[-2:])
    known = [everything if mask is None else mask for mask in masks]
    return torch.stack(known)[:, None]
