"""Full fine-tuning: the component's own weights learn, and nothing stands beside them (Ruiz et al. 2022, DreamBooth).

What learns takes 16 bytes a weight (itself, its gradient and AdamW's two moments, in 32 bits) and what it was besides:
14 GB and 2 to 3.5 GB for the UNet of Stable Diffusion 1.5, where a LoRA of rank 16 takes 50 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal

from dbrun.adapters.base import Adapter, Targets
from dbrun.errors import StageFailed

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Full(Adapter):
    """The component's own weights: all of them, or those of the modules that targets name, with all within these."""

    NAME: ClassVar[str] = "full"
    layers: ClassVar[tuple[str, ...]] = ("Module",)
    by_peft: ClassVar[bool] = False

    type: Literal["full"]
    """The adapter type."""
    targets: Targets = ("*",)
    """Which modules learn, with all within them: attention, attention+ff, linear, all, or patterns. Left out, all."""

    def faults(self) -> Iterator[tuple[str, str, str]]:
        """It starts from the base's own weights."""
        if self.init is not None:
            yield ("init", "found a path, but `type: full` starts from the base's own weights",
                   "take `init` away, and name the weights to start from in `base.path`")

    def placed(self, module: nn.Module, modules: tuple[str, ...]) -> Whole:
        """Make the weights learn, in 32 bits."""
        return Whole(module, modules)


class Whole:
    """The weights of a module that learn, and what they were."""

    def __init__(self, module: nn.Module, modules: Sequence[str]) -> None:
        within = tuple(f"{name}." for name in modules)
        self.learning = {name: p for name, p in module.named_parameters() if name.startswith(within)}
        self.first = {name: p.detach().clone() for name, p in self.learning.items()}
        for parameter in self.learning.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)

    def read(self) -> dict[str, Tensor]:
        """The weights by their names on the module: float32, on the CPU, contiguous, sorted by name."""
        import torch

        return {name: p.detach().to("cpu", torch.float32, copy=True).contiguous()
                for name, p in sorted(self.learning.items())}

    def write(self, state: Mapping[str, Tensor]) -> None:
        """Set the weights. Raises StageFailed for other names or shapes than those of `read`."""
        import torch

        have = {name: p.shape for name, p in self.learning.items()}
        if have != {name: tensor.shape for name, tensor in state.items()}:
            raise StageFailed("these are not the weights that learn here", fix="run again with `--force adapt`")
        with torch.no_grad():
            for name, tensor in state.items():
                self.learning[name].copy_(tensor)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """While this is open, the weights are what they were, to the bit."""
        learnt = {name: p.data for name, p in self.learning.items()}
        for name, parameter in self.learning.items():
            parameter.data = self.first[name]
        try:
            yield
        finally:
            for name, parameter in self.learning.items():
                parameter.data = learnt[name]

    def settle(self, dtype: torch.dtype) -> None:
        """Hold the weights in these numbers, as the rest of the module."""
        for parameter in self.learning.values():
            parameter.data = parameter.data.to(dtype)
