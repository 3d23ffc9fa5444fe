"""Bytes of tensors while code runs: the most that are alive at once, and what autograd saves for the backward pass.

Both count storages, not tensors: views of one storage take its bytes once. They count real tensors and those of torch's
fake mode (shapes on the meta device, no memory) alike.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context manager: count the bytes of storages that operations make inside it, until each is freed.

    live: bytes alive now; peak: the most that were alive at once since `restart`. Memory that a kernel takes and gives
    back inside one operation is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def restart(self) -> None:
        """Let `peak` begin anew at what is alive now."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count the storages of its results."""
        result = func(*args, **(kwargs or {}))
        # a view of a weight, or one written in place, takes no bytes of its own
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        # torch keeps one Python object for a storage as long as the storage lives, also inside autograd
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def freed(_: object) -> None:
            self.live -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)


class SavedTensors:
    """The storages that autograd saves for a backward pass; `nbytes` is their total, each counted once."""

    def __init__(self, ignored: Iterable[Tensor]) -> None:
        self._ignored = {tensor.untyped_storage()._cdata for tensor in ignored}
        # held, so that no later storage gets the address of a freed one
        self._storages: dict[int, torch.UntypedStorage] = {}

    @property
    def nbytes(self) -> int:
        """Total bytes of the saved storages."""
        return sum(storage.nbytes() for storage in self._storages.values())

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor of any shape that autograd saves; returns it unchanged."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._ignored:
            self._storages[storage._cdata] = storage
        return tensor


@contextmanager
def count_saved(ignored: Iterable[Tensor]) -> Iterator[SavedTensors]:
    """Context manager: count what autograd saves inside it. ignored: tensors that live anyway, such as parameters."""
    saved = SavedTensors(ignored)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        yield saved
