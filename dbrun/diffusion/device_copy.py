"""Copies of tensors from CPU memory to a device, for which the host does not wait."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

Name = TypeVar("Name", bound=Hashable)

WAITS = ("cpu", "mps")
"""Types of devices without asynchronous copies: the CPU needs none, and Apple's GPU shares the CPU's memory."""
ALIGNMENT = 64
"""Bytes that the place of each tensor in a buffer is a multiple of; every dtype can be read there."""


def to_device(tensors: Mapping[Name, Tensor], device: torch.device) -> dict[Name, Tensor]:
    """The tensors on the device, with the same bits, shapes and dtypes, by one copy that the host only queues.

    Tensors that are there already are returned as they are. On a GPU the others become views of one buffer.
    """
    if device.type in WAITS:
        return {name: tensor.to(device) for name, tensor in tensors.items()}
    starts: dict[Name, int] = {}
    size = 0
    for name, tensor in tensors.items():
        if tensor.device.type == "cpu":
            starts[name] = size
            size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    if not starts:
        return dict(tensors)

    staged = _staging_buffer(size, device)
    for name, start in starts.items():
        _view(staged, start, tensors[name]).copy_(tensors[name])
    copied = staged.to(device, non_blocking=True)
    moved = dict(tensors)
    for name, start in starts.items():
        moved[name] = _view(copied, start, tensors[name])
    return moved


def one_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, of any shape, as `to_device` copies it."""
    return to_device({"": tensor}, device)[""]


def _staging_buffer(size: int, device: torch.device) -> Tensor:
    """A new buffer of so many bytes in CPU memory, uint8 [size], from which the device can copy by itself."""
    # from pageable memory CUDA copies only what it has copied into memory of its own, and the host waits for that.
    # torch gives freed pinned memory out again only once the copies queued from it are done
    return torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")


def _view(buffer: Tensor, start: int, like: Tensor) -> Tensor:
    """The part of a buffer of bytes from `start` on, with the dtype and shape of `like`."""
    return buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)
