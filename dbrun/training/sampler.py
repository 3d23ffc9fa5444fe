"""The pictures of each micro-batch: shuffled epochs, dealt out by shape."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import NamedTuple

import torch

from dbrun.training.device import generator


class Epoch(NamedTuple):
    """The pictures of an epoch of one half, by number, each as often as it is repeated. shapes: of each entry."""

    seed: int
    half: str
    pictures: tuple[int, ...]
    shapes: tuple[Hashable, ...]


def micro_batch(epoch: Epoch, size: int, number: int) -> list[tuple[int, int]]:
    """(position, picture) of each row of the micro-batch of this number, all of one shape, at most `size` of them.

    position: counts up over all that a half shows in the whole training: the address of a draw.

    Where all pictures have one shape, shuffled epochs run on across micro-batches, each of them full. Else an epoch
    ends with a micro-batch: each shape's pictures are dealt out, so that its last micro-batch may be smaller, and
    the micro-batches are shuffled. Either way an epoch shows each picture as often as it is repeated.
    """
    if len(set(epoch.shapes)) == 1:
        positions = range(number * size, (number + 1) * size)
        return [(position, _picture_at(epoch, position)) for position in positions]

    per_epoch = len(_epoch_batches(epoch, size, 0))
    epoch_number, place = divmod(number, per_epoch)
    batches = _epoch_batches(epoch, size, epoch_number)
    shown_before = sum(len(batch) for batch in batches[:place])
    first = epoch_number * len(epoch.pictures) + shown_before
    pictures = [epoch.pictures[entry] for entry in batches[place]]
    return list(enumerate(pictures, first))


def _picture_at(epoch: Epoch, position: int) -> int:
    """The picture at this position of shuffled epochs that follow one another."""
    count = len(epoch.pictures)
    epoch_number, place = divmod(position, count)
    return epoch.pictures[_shuffle(epoch.seed, epoch.half, epoch_number, count)[place]]


@lru_cache(maxsize=16)
def _epoch_batches(epoch: Epoch, size: int, number: int) -> tuple[tuple[int, ...], ...]:
    """The micro-batches of the epoch of this number, in their order; entries of `epoch.pictures`."""
    # shapes in the order of the pictures, not of the shuffle: the order of the groups is part of the result
    by_shape: dict[Hashable, list[int]] = {shape: [] for shape in epoch.shapes}
    for entry in _shuffle(epoch.seed, epoch.half, number, len(epoch.pictures)):
        by_shape[epoch.shapes[entry]].append(entry)
    batches: list[tuple[int, ...]] = []
    for entries in by_shape.values():
        for start in range(0, len(entries), size):
            batches.append(tuple(entries[start:start + size]))
    order = torch.randperm(len(batches), generator=generator(epoch.seed, "order of shapes", epoch.half, number))
    return tuple(batches[i] for i in order.tolist())


@lru_cache(maxsize=16)
def _shuffle(seed: int, half: str, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(torch.randperm(count, generator=generator(seed, "order", half, epoch)).tolist())
