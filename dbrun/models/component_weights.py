"""The weights of a base in memory, component by component: loaded at their first use, and restored bit for bit."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from dbrun.models.offload import BlockOffload, find_offload

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dbrun.models.quantisation import Quantisation


class ComponentWeights:
    """Modules of a base by their names in model_index.json.

    load: reads one from the base's files, onto its `load_device`; device: where they compute.
    """

    def __init__(self, load: Callable[[str], nn.Module], device: torch.device) -> None:
        _freeze_imported_objects()
        self.device = device
        self.find_kept: Callable[[str], nn.Module | None] = no_component
        """Gives an untouched component, on its `load_device`, that is in memory already; None to load it."""
        self.hand_over: Callable[[str, nn.Module], None] = drop_component
        """Takes an untouched component that is released here."""
        self.load_from_files = load
        """Reads a component from the base's files."""
        self.quantisation: Quantisation | None = None
        """How the denoiser's linear layers are quantised as they are loaded; None for the base's own weights."""
        self.offloaded: str | None = None
        """The component whose blocks stay in CPU memory, see `BlockOffload`; None where all are on the device."""
        self._modules: dict[str, nn.Module] = {}
        # every loaded parameter with the tensor that it was loaded with; a reference costs nothing until one changes
        self._original_data: dict[str, list[tuple[nn.Parameter, Tensor]]] = {}

    @property
    def loaded(self) -> Mapping[str, nn.Module]:
        """The modules that are in memory, by name."""
        return self._modules

    def get(self, name: str) -> nn.Module:
        """A component, loaded at the first call."""
        if name not in self._modules:
            self._modules[name] = module = self._load(name)
            self._original_data[name] = [(parameter, parameter.data) for parameter in module.parameters()]
        return self._modules[name]

    def load_device(self, name: str) -> torch.device:
        """Where a component is loaded: on the device, or in CPU memory where its blocks stay there."""
        import torch

        return torch.device("cpu") if name == self.offloaded else self.device

    def replace(self, name: str, module: nn.Module) -> None:
        """Put another module, on the component's `load_device`, in its place; `restore` releases it."""
        self._modules[name] = self._offload(name, module)
        self._original_data.pop(name, None)

    def is_untouched(self, name: str) -> bool:
        """Whether a component in memory has the parameters and tensors it was loaded with, and no others."""
        original = self._original_data.get(name)
        if original is None:
            return False
        now = list(self._modules[name].parameters())
        if len(now) != len(original):
            return False
        return all(parameter is mine and parameter.data.data_ptr() == data.data_ptr()
                   for parameter, (mine, data) in zip(now, original, strict=True))

    def take_untouched(self, name: str) -> nn.Module | None:
        """Give up a component that is as it was loaded, without offload; None where it is not in memory, or changed."""
        if not self.is_untouched(name):
            return None
        del self._original_data[name]
        module = self._modules.pop(name)
        offload = find_offload(module)
        if offload is not None:
            offload.remove()
        return module

    def release(self, names: Iterable[str]) -> None:
        """Free these components; the next use loads them again, without adapters."""
        import torch

        held = self._modules.keys() & set(names)
        if not held:
            return
        for name in held:
            untouched = self.take_untouched(name)
            if untouched is not None:
                self.hand_over(name, untouched)
                del untouched
            self._modules.pop(name, None)
            self._original_data.pop(name, None)
        # hooks and caches of the libraries make cycles, which only the collector frees
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def restore(self) -> None:
        """Give every parameter the tensor it was loaded with, and release what was replaced.

        Whoever changes a weight assigns its `data` anew, and never writes into the tensor.
        """
        self.release(self._modules.keys() - self._original_data.keys())
        for parameters in self._original_data.values():
            for parameter, data in parameters:
                parameter.data, parameter.grad = data, None
                parameter.requires_grad_(False)
        for module in self._modules.values():
            module.eval()

    def _load(self, name: str) -> nn.Module:
        """The untouched component, from memory or from the base's files."""
        import torch

        # whatever mode the first use is in: no adapter could train on tensors made under inference_mode
        with torch.inference_mode(mode=False):
            module = self.find_kept(name)
            if module is None:
                module = self.load_from_files(name)
            return self._offload(name, module)

    def _offload(self, name: str, module: nn.Module) -> nn.Module:
        """The module, with its blocks offloaded where the component's are."""
        if name == self.offloaded and find_offload(module) is None:
            BlockOffload(module, self.device)
        return module


def no_component(name: str) -> None:
    """No component is in memory already: the default of `ComponentWeights.find_kept`."""


def drop_component(name: str, module: nn.Module) -> None:
    """Nobody takes a released component: the default of `ComponentWeights.hand_over`."""


@cache
def _freeze_imported_objects() -> None:
    """Exclude what lives now, the modules of the libraries, from garbage collection; once in a process.

    `release` collects each time, which took 0.4 s with them and takes 0.01 s without. No weights are in memory yet.
    """
    gc.collect()
    gc.freeze()
