"""Which pictures stand in which micro-batch?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from dbrun.training.device import generator


class Row(NamedTuple):
    """A picture at its place in the training. position: counts up over all that a half shows: a draw's address."""

    picture: int
    position: int


class Epoch(NamedTuple):
    """What an epoch of one half holds. pictures: in one shuffle, each as often as it is repeated; shapes: of each."""

    seed: int
    half: str
    pictures: tuple[int, ...]
    shapes: tuple[Hashable, ...]


def rows(epoch: Epoch, size: int, micro_batch: int) -> Sequence[Row]:
    """The rows of the micro-batch of this number, all of one shape; size: how many there are at most.

    Where all pictures have one shape, shuffled epochs run on across micro-batches, each of them full. Else an epoch
    ends with a micro-batch: each shape's pictures are dealt out, so that its last micro-batch may be smaller, and
    the micro-batches are shuffled. Either way an epoch shows each picture as often as it is repeated.
    """
    count = len(epoch.pictures)
    if len(set(epoch.shapes)) == 1:
        places = [divmod(position, count) for position in range(micro_batch * size, (micro_batch + 1) * size)]
        return [Row(epoch.pictures[_shuffle(epoch.seed, epoch.half, number, count)[place]], number * count + place)
                for number, place in places]
    whole = _epoch_batches(epoch, size, 0)
    number, place = divmod(micro_batch, len(whole))
    dealt = _epoch_batches(epoch, size, number)
    first = number * count + sum(map(len, dealt[:place]))
    return [Row(epoch.pictures[entry], first + i) for i, entry in enumerate(dealt[place])]


@lru_cache(maxsize=16)
def _epoch_batches(epoch: Epoch, size: int, number: int) -> tuple[tuple[int, ...], ...]:
    """The micro-batches of the epoch of this number, in their order; entries of `epoch.pictures`."""
    by_shape: dict[Hashable, list[int]] = {shape: [] for shape in epoch.shapes}
    for entry in _shuffle(epoch.seed, epoch.half, number, len(epoch.pictures)):
        by_shape[epoch.shapes[entry]].append(entry)
    dealt = [tuple(entries[i:i + size]) for entries in by_shape.values() for i in range(0, len(entries), size)]
    order = torch.randperm(len(dealt), generator=generator(epoch.seed, "order of shapes", epoch.half, number))
    return tuple(dealt[i] for i in order.tolist())


@lru_cache(maxsize=16)
def _shuffle(seed: int, half: str, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(torch.randperm(count, generator=generator(seed, "order", half, epoch)).tolist())
