"""How do weights learn that peft has nothing to do with: where they stand, and as they were when asked?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dbrun.errors import StageFailed

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class DirectWeights:
    """Weights that learn in 32 bits, by name, and what they were."""

    def __init__(self, learning: Mapping[str, nn.Parameter]) -> None:
        self.parameters = learning
        self.original = {name: p.detach().clone() for name, p in learning.items()}
        for parameter in learning.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)

    def read(self) -> dict[str, Tensor]:
        """The weights by their names: float32, on the CPU, contiguous, sorted by name."""
        import torch

        return {name: p.detach().to("cpu", torch.float32, copy=True).contiguous()
                for name, p in sorted(self.parameters.items())}

    def write(self, state: Mapping[str, Tensor]) -> None:
        """Set the weights. Raises StageFailed for other names or shapes than those of `read`."""
        import torch

        have = {name: p.shape for name, p in self.parameters.items()}
        if have != {name: tensor.shape for name, tensor in state.items()}:
            raise StageFailed("these are not the weights that learn here", fix="run again with `--force adapt`")
        with torch.no_grad():
            for name, tensor in state.items():
                self.parameters[name].copy_(tensor)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """While this is open, the weights are what they were, to the bit."""
        learnt = {name: p.data for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.data = self.original[name]
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = learnt[name]

    def cast_for_inference(self, dtype: torch.dtype) -> None:
        """Hold the weights in these numbers, as the rest of the module."""
        for parameter in self.parameters.values():
            parameter.data = parameter.data.to(dtype)
