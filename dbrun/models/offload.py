"""Offload of a denoiser: its blocks stay in CPU memory, and each is on the device only while it computes.

diffusers' group offloading does this for sampling, but fails in training (tried with diffusers 0.42). It points the
parameters back at CPU memory after the forward pass, and autograd, which has saved the parameters themselves, finds
them there in the backward pass. With gradient checkpointing the recomputation ends in an exception, which skips its
hook: one block after the other stays on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from dbrun.errors import RecipeError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

ATTRIBUTE = "block_offload"
"""Attribute of a module that holds its `BlockOffload`."""


class Slot(NamedTuple):
    """Place of a tensor in a module. table: a module's parameters or buffers by name."""

    table: dict[str, Any]
    name: str


class SavedWeight(NamedTuple):
    """What autograd keeps of a weight in place of its copy on the device: the tensor in CPU memory, and the view."""

    home: Tensor
    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt


class BlockOffload:
    """Hooks that copy each block of a module to the device before it computes, and drop the copies afterwards.

    module: in CPU memory; what learns, and what is in no block, moves to the device for good, and so does what is
    attached later. The numbers are those of the module that is on the device as a whole, bit for bit. Raises
    RecipeError where it has no blocks.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        blocks = find_blocks(module)
        if not blocks:
            raise RecipeError(f"`base.offload: blocks` finds no blocks in this base's {type(module).__name__}",
                              fix="remove `offload`")
        self.module, self.device, self.blocks = module, device, blocks
        inside: set[nn.Module] = set()
        self._slots: dict[nn.Module, list[Slot]] = {}
        for block in blocks:
            inside.update(block.modules())
            self._slots[block] = _frozen_slots(block)
        for part in module.modules():
            # what is there already stays: the tensors of a dry run cannot be replaced
            elsewhere = any(slot.table[slot.name].device != device for slot in _own_slots(part))
            if part not in inside and elsewhere:
                part._apply(lambda tensor: tensor.to(device), recurse=False)  # type: ignore[no-untyped-call]
        # per block that computes: its slots with their tensors in CPU memory
        self._computing: dict[nn.Module, list[tuple[Slot, Tensor]]] = {}
        # storage of a copy on the device -> the tensor in CPU memory
        self._homes: dict[int, Tensor] = {}
        self._contexts: list[Any] = []
        self._handles = [module.register_forward_pre_hook(self._module_begins),
                         module.register_forward_hook(self._module_ends, always_call=True)]
        for block in blocks:
            self._handles.append(block.register_forward_pre_hook(self._block_begins))
            # also after an exception: checkpointing ends a recomputation with one
            self._handles.append(block.register_forward_hook(self._block_ends, always_call=True))
        setattr(module, ATTRIBUTE, self)

    @property
    def block_bytes(self) -> int:
        """Bytes of all blocks in CPU memory."""
        return sum(slot.table[slot.name].nbytes for slots in self._slots.values() for slot in slots)

    def remove(self) -> None:
        """Take the hooks off; every tensor stays where it is."""
        for handle in self._handles:
            handle.remove()
        vars(self.module).pop(ATTRIBUTE, None)

    def place_adapters(self) -> None:
        """Move what was attached to the blocks to the device, for good; the libraries put it beside the weights."""
        for block in self.blocks:
            self._place_adapter(block)

    def copy(self, home: Tensor) -> Tensor:
        """Copy of a CPU tensor on the device, of the same shape and dtype."""
        return home.detach().to(self.device, copy=True)

    def _place_adapter(self, block: nn.Module) -> None:
        own = {(id(slot.table), slot.name) for slot in self._slots[block]}
        for part in block.modules():
            for slot in _own_slots(part):
                tensor = slot.table[slot.name]
                if (id(slot.table), slot.name) not in own and tensor.device != self.device:
                    # the same parameter, which an optimizer may hold already
                    tensor.data = tensor.data.to(self.device)

    def _block_begins(self, block: nn.Module, args: object) -> None:
        """Put copies on the device in the places of the block's tensors."""
        from torch import nn

        self._place_adapter(block)
        held = self._computing.setdefault(block, [])
        for slot in self._slots[block]:
            home = slot.table[slot.name]
            copy = self.copy(home)
            # a new parameter: one that only pointed elsewhere would do so in what autograd has saved, too
            slot.table[slot.name] = nn.Parameter(copy, False) if isinstance(home, nn.Parameter) else copy
            self._homes[copy.untyped_storage()._cdata] = home
            held.append((slot, home))

    def _block_ends(self, block: nn.Module, args: object, output: object) -> None:
        """Put the tensors in CPU memory back."""
        for slot, home in self._computing.pop(block, ()):
            self._homes.pop(slot.table[slot.name].untyped_storage()._cdata, None)
            slot.table[slot.name] = home

    def _module_begins(self, module: nn.Module, args: object) -> None:
        """Let autograd save no copy on the device; under gradient checkpointing it saves none by itself."""
        from torch.autograd.graph import saved_tensors_hooks

        self._contexts.append(saved_tensors_hooks(self._pack, self._unpack))
        self._contexts[-1].__enter__()

    def _module_ends(self, module: nn.Module, args: object, output: object) -> None:
        self._contexts.pop().__exit__()

    def _pack(self, tensor: Tensor) -> Tensor | SavedWeight:
        home = self._homes.get(tensor.untyped_storage()._cdata)
        if home is None:
            return tensor
        return SavedWeight(home, tensor.size(), tensor.stride(), tensor.storage_offset())

    def _unpack(self, saved: Tensor | SavedWeight) -> Tensor:
        if isinstance(saved, SavedWeight):
            return self.copy(saved.home).as_strided(saved.size, saved.stride, saved.offset)
        return saved


def find_offload(module: nn.Module) -> BlockOffload | None:
    """The offload of a module; None for one that is on its device as a whole."""
    return vars(module).get(ATTRIBUTE)


def find_blocks(module: nn.Module) -> list[nn.Module]:
    """Blocks of a network of diffusers, in order: the classes that it names as not to be split, innermost ones only.

    Where gradient checkpointing recomputes parts of a network, these are such parts or contain none.
    """
    kinds = frozenset(getattr(module, "_no_split_modules", None) or ())
    blocks: list[nn.Module] = []
    for part in module.modules():
        named = [inner for inner in part.modules() if type(inner).__name__ in kinds]
        if named == [part]:
            blocks.append(part)
    return blocks


@contextmanager
def on_device(module: nn.Module, layer: nn.Module) -> Iterator[None]:
    """Context manager: compute with a layer's weights where all others are computed with.

    The weights in CPU memory of an offloaded module are moved to its device, and what became of them back on exit.
    """
    offload = find_offload(module)
    if offload is None:
        yield
        return
    homes = [(tensor, tensor.device) for tensor in (*layer.parameters(), *layer.buffers())]
    for tensor, _ in homes:
        tensor.data = tensor.data.to(offload.device)
    try:
        yield
    finally:
        for tensor, device in homes:
            tensor.data = tensor.data.to(device)


def _frozen_slots(block: nn.Module) -> list[Slot]:
    """Slots of all frozen tensors of a block, those of its parts included."""
    slots: list[Slot] = []
    for part in block.modules():
        slots += [slot for slot in _own_slots(part) if not slot.table[slot.name].requires_grad]
    return slots


def _own_slots(part: nn.Module) -> list[Slot]:
    """Slots of a module's own tensors."""
    slots: list[Slot] = []
    for table in (part._parameters, part._buffers):
        slots += [Slot(table, name) for name, tensor in table.items() if tensor is not None]
    return slots
