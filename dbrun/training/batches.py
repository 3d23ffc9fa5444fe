"""Micro-batches: their rows, and the noise, timestep and prompt of each row, drawn from a seed with an address."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from dbrun.diffusion.device_copy import to_device
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

    x0, noise: float32 [B, C, h, w]; noise is what the denoiser predicts. t: timesteps, int64 [B].
    prompts: the prompt number of each row. num_instances: the number of instance rows.
    extra_conditions: further inputs of the denoiser, each batched [B, …]. input_noise: the noise that is added to x0,
    [B, C, h, w]; None where it equals `noise`. loss_mask: the weight of each latent pixel in the loss, [B, 1, h, w], at
    least 0; None for equal weights. class_batch: the class rows, where their shape differs from the instance rows'.
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


def batch_to_device(batch: Batch, condition: Condition, device: torch.device) -> tuple[Batch, Condition]:
    """The batch and the condition of its rows on the device, by one copy; `class_batch` is left out.

    t stays in CPU memory, where processes compute their factors from it.
    """
    tensors = {("batch", "x0"): batch.x0, ("batch", "noise"): batch.noise}
    if batch.input_noise is not None:
        tensors["batch", "input_noise"] = batch.input_noise
    if batch.loss_mask is not None:
        tensors["batch", "loss_mask"] = batch.loss_mask
    for name, tensor in batch.extra_conditions.items():
        tensors["extra", name] = tensor
    for name, tensor in condition.items():
        tensors["prompts", name] = tensor

    moved: dict[str, dict[str, Tensor]] = {"batch": {}, "extra": {}, "prompts": {}}
    for (kind, name), tensor in to_device(tensors, device).items():
        moved[kind][name] = tensor
    there = batch._replace(x0=moved["batch"]["x0"], noise=moved["batch"]["noise"], extra_conditions=moved["extra"],
                           input_noise=moved["batch"].get("input_noise"),
                           loss_mask=moved["batch"].get("loss_mask"), class_batch=None)
    return there, moved["prompts"]


@dataclass(frozen=True)
class PictureSet:
    """One half of the training pictures: the instance images or the class images.

    name: `instance` or `class`, part of the address of every random draw. pictures: by number.
    latents: crop name -> stored latents, float32 [C, h, w]; may also hold crops of other pictures.
    loss_masks: crop name -> weights of the latent pixels, [h, w]; a crop without an entry has equal weights.
    empty_prompt: as in `Manifest`. time_ids: crop name -> its sizes [6], for a denoiser that is told them; else empty.
    """

    name: str
    pictures: Sequence[StoredPicture]
    latents: Mapping[str, Tensor]
    loss_masks: Mapping[str, Tensor] = field(default_factory=dict)
    empty_prompt: int | None = None
    time_ids: Mapping[str, Tensor] = field(default_factory=dict)

    def epoch(self, seed: int) -> Epoch:
        """One epoch of this half: every picture as often as its `repeats` says."""
        entries: list[int] = []
        for number, picture in enumerate(self.pictures):
            entries += [number] * picture.repeats
        shapes = tuple(self._shape(entry) for entry in entries)
        return Epoch(seed, self.name, tuple(entries), shapes)

    def _shape(self, number: int) -> tuple[int, ...]:
        """The shape (C, h, w) of a picture's latents, which all its crops share."""
        first_crop = self.pictures[number].crops[0]
        return tuple(self.latents[first_crop].shape)


class Row(NamedTuple):
    """A row of a micro-batch: one crop of a picture of a half.

    position: counts all rows that the half shows during the training; the address of the row's random draws.
    """

    half: PictureSet
    picture: StoredPicture
    crop: str
    position: int

    @property
    def latents(self) -> Tensor:
        """The stored latents that x0 is drawn from, float32 [C, h, w]."""
        return self.half.latents[self.crop]

    @property
    def loss_mask(self) -> Tensor | None:
        """The weights of the latent pixels, [h, w]; None for equal weights."""
        return self.half.loss_masks.get(self.crop)

    @property
    def time_ids(self) -> Tensor | None:
        """The crop's sizes [6]; None for a denoiser that is not told them."""
        # a crop that is missing beside others is an error, not a picture without sizes
        return self.half.time_ids[self.crop] if self.half.time_ids else None


def no_shift(shape: Sequence[int]) -> float:
    """Draw timesteps as their distribution says, whatever the shape of x0."""
    return 1.0


@dataclass(frozen=True)
class Batches:
    """The micro-batches of a training. Each is a pure function of its number, so a resumed run draws the same ones.

    halves: instance, then class if there is one. seed: the recipe's. size: rows per half. timesteps: T of the process.
    draw: the family's draw of x0 from stored latents [B, C, h, w]. timestep_sampling: the distribution of t.
    noise: the kind of noise. shift: shape of x0, [C, h, w] -> the shift of its timesteps, 1 for none.
    """

    halves: Sequence[PictureSet]
    seed: int
    size: int
    timesteps: int
    draw: Callable[[Tensor, Randn], CleanBatch]
    timestep_sampling: TimestepDistribution = UNIFORM
    noise: Noise = WHITE
    shift: Callable[[Sequence[int]], float] = no_shift

    def __call__(self, micro_batch: int) -> Batch:
        """The micro-batch with this number, counted from 0 over the whole training."""
        rows_by_half: list[list[Row]] = []
        for half, epoch in zip(self.halves, self._epochs, strict=True):
            rows_by_half.append(self._rows(half, epoch, micro_batch))
        instance_rows = rows_by_half[0]
        all_rows = [row for rows in rows_by_half for row in rows]
        if len({row.latents.shape for row in all_rows}) == 1:
            return self._batch(all_rows, len(instance_rows))
        # the rows of a half share a shape, but with buckets the two halves may differ, and no tensor can hold both
        class_batch = self._batch(rows_by_half[1], 0)
        return self._batch(instance_rows, len(instance_rows))._replace(class_batch=class_batch)

    def held_out_batch(self, picture: int, place: int, draws: int) -> Batch:
        """A batch for the held-out loss: one held-out picture in `draws` rows, at evenly spaced timesteps.

        picture: its number among the instance pictures; place: its index among the held-out ones. The addresses of the
        random draws follow from place, so that every evaluation uses the same batch.
        """
        half = replace(self.halves[0], name="held out")
        # always the same crop and prompt: the loss is compared with that of earlier evaluations
        fixed = replace(half.pictures[picture], variants=(), dropout=0.0)
        rows = [Row(half, fixed, fixed.crops[0], place * draws + i) for i in range(draws)]
        # evenly spaced, not drawn: the loss depends on the timestep, and a few drawn ones may leave out a whole range
        t = torch.tensor([int((i + 0.5) * self.timesteps / draws) for i in range(draws)])
        return self._batch(rows, draws)._replace(t=t)

    @cached_property
    def _epochs(self) -> Sequence[Epoch]:
        return [half.epoch(self.seed) for half in self.halves]

    def _rows(self, half: PictureSet, epoch: Epoch, micro_batch: int) -> list[Row]:
        """The rows of one half in this micro-batch, all of one shape."""
        rows: list[Row] = []
        for position, number in sampler.micro_batch(epoch, self.size, micro_batch):
            picture = half.pictures[number]
            crop = self._pick_crop(half, picture, position)
            rows.append(Row(half, picture, crop, position))
        return rows

    def _pick_crop(self, half: PictureSet, picture: StoredPicture, position: int) -> str:
        """The name of the crop that this draw shows."""
        crops = picture.crops
        if len(crops) == 1:
            return crops[0]
        chosen = torch.randint(len(crops), (1,), generator=generator(self.seed, "way", half.name, position))
        return crops[int(chosen)]

    def _batch(self, rows: Sequence[Row], instances: int) -> Batch:
        """A batch of rows of one shape. instances: how many of them are instance rows."""
        # one draw per row, never one for the batch: 3 accumulated micro-batches of 2 then train on the same numbers as
        # one of 6
        def randn(purpose: str, shape: Sequence[int]) -> Tensor:
            drawn: list[Tensor] = []
            for row in rows:
                drawn.append(torch.randn(tuple(shape), generator=self._generator(row, purpose)))
            return torch.stack(drawn)

        latents = torch.stack([row.latents for row in rows])
        x0, extra_conditions = self.draw(latents, randn)
        time_ids = [row.time_ids for row in rows if row.time_ids is not None]
        if time_ids:
            extra_conditions = {**extra_conditions, "time_ids": torch.stack(time_ids)}
        shift = self.shift(x0.shape[1:])
        timesteps: list[Tensor] = []
        target_noise: list[Tensor] = []
        input_noise: list[Tensor] = []
        prompts: list[int] = []
        for row in rows:
            at = partial(self._generator, row)
            timesteps.append(self.timestep_sampling.sample(self.timesteps, at("timestep"), shift))
            predicted, added = self.noise(x0.shape[1:], at)
            target_noise.append(predicted)
            input_noise.append(added)
            prompts.append(draw_prompt(row.picture, row.half.empty_prompt, at))
        batch = Batch(x0, torch.stack(target_noise), torch.cat(timesteps), tuple(prompts), instances, extra_conditions,
                      loss_mask=_loss_mask(rows, x0))
        if self.noise.perturbation:
            batch = batch._replace(input_noise=torch.stack(input_noise))
        return batch

    def _generator(self, row: Row, purpose: str) -> torch.Generator:
        """The random generator of one draw of a row; no two purposes and no two rows share one."""
        return generator(self.seed, purpose, row.half.name, row.position)


def _loss_mask(rows: Sequence[Row], x0: Tensor) -> Tensor | None:
    """The weights of the latent pixels of x0 [B, C, h, w] in the loss, [B, 1, h, w]; None for equal weights."""
    masks = [row.loss_mask for row in rows]
    if all(mask is None for mask in masks):
        return None
    # a row without a mask counts everywhere
    everywhere = torch.ones(x0.shape[-2:])
    weights = [everywhere if mask is None else mask for mask in masks]
    return torch.stack(weights)[:, None]
