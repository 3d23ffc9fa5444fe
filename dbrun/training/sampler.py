"""The sampler: which pictures each micro-batch shows, in shuffled epochs, grouped by shape."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import NamedTuple

import torch

from dbrun.training.device import generator


class Epoch(NamedTuple):
    """One epoch of a half.

    seed: the recipe's; half: its name; pictures: picture numbers, each as often as it is repeated; shapes: the latent
    shape of each of these entries.
    """

    seed: int
    half: str
    pictures: tuple[int, ...]
    shapes: tuple[Hashable, ...]


def micro_batch(epoch: Epoch, size: int, number: int) -> list[tuple[int, int]]:
    """(position, picture number) of each row of a micro-batch: at most `size` rows, all of one shape.

    number: of the micro-batch, counted from 0 over the whole training. position: counts all rows that the half shows
    during the training; the address of a row's random draws. Every epoch shows each picture as often as it is repeated.
    """
    # with one shape, epochs run on across micro-batches, and every micro-batch is full
    if len(set(epoch.shapes)) == 1:
        positions = range(number * size, (number + 1) * size)
        return [(position, _picture_at(epoch, position)) for position in positions]

    # with several, an epoch ends with a micro-batch, and the last micro-batch of each shape may be smaller
    per_epoch = len(_epoch_batches(epoch, size, 0))
    epoch_number, place = divmod(number, per_epoch)
    batches = _epoch_batches(epoch, size, epoch_number)
    shown_before = sum(len(batch) for batch in batches[:place])
    first = epoch_number * len(epoch.pictures) + shown_before
    pictures = [epoch.pictures[entry] for entry in batches[place]]
    return list(enumerate(pictures, first))


def _picture_at(epoch: Epoch, position: int) -> int:
    """The picture number at this position of shuffled epochs that follow one another."""
    count = len(epoch.pictures)
    epoch_number, place = divmod(position, count)
    order = _shuffle(epoch.seed, epoch.half, epoch_number, count)
    return epoch.pictures[order[place]]


@lru_cache(maxsize=16)
def _epoch_batches(epoch: Epoch, size: int, number: int) -> tuple[tuple[int, ...], ...]:
    """The micro-batches of the epoch with this number, in order; each holds indices into `epoch.pictures`."""
    # shapes in the order of the pictures, not of the shuffle: the order of the groups is part of the result
    by_shape: dict[Hashable, list[int]] = {shape: [] for shape in epoch.shapes}
    for entry in _shuffle(epoch.seed, epoch.half, number, len(epoch.pictures)):
        by_shape[epoch.shapes[entry]].append(entry)
    batches: list[tuple[int, ...]] = []
    for entries in by_shape.values():
        for start in range(0, len(entries), size):
            batches.append(tuple(entries[start:start + size]))
    # shuffled once more, else an epoch would show one shape after the other
    order = torch.randperm(len(batches), generator=generator(epoch.seed, "order of shapes", epoch.half, number))
    return tuple(batches[i] for i in order.tolist())


@lru_cache(maxsize=16)
def _shuffle(seed: int, half: str, epoch: int, count: int) -> tuple[int, ...]:
    """A permutation of range(count), seeded by half and epoch."""
    order = torch.randperm(count, generator=generator(seed, "order", half, epoch))
    return tuple(order.tolist())
