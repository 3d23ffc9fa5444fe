"""Weights that learn in place, without peft: full fine-tuning and the vectors of new words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dbrun.errors import StageFailed

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class DirectWeights:
    """Parameters that learn in float32, by name, with a copy of their original values."""

    def __init__(self, learning: Mapping[str, nn.Parameter]) -> None:
        import torch

        self.parameters = learning
        # In their own dtype: `disable_adapter` must give the base back bit for bit, which float32 would not do.
        self.original = {name: p.data for name, p in learning.items()}
        for parameter in learning.values():
            parameter.data = parameter.data.to(torch.float32, copy=True)
            parameter.requires_grad_(True)

    def read(self) -> dict[str, Tensor]:
        """The weights by name, shaped as their parameters, such as [out, in] or [n, D]: float32 on the CPU, sorted."""
        import torch

        return {name: p.detach().to("cpu", torch.float32, copy=True).contiguous()
                for name, p in sorted(self.parameters.items())}

    def write(self, state: Mapping[str, Tensor]) -> None:
        """Set the weights, each in its parameter's shape, such as [out, in] or [n, D].

        Raises StageFailed if names or shapes differ from those of `read`.
        """
        import torch

        expected = {name: p.shape for name, p in self.parameters.items()}
        if expected != {name: tensor.shape for name, tensor in state.items()}:
            raise StageFailed("the stored weights differ in name or shape from those of the base",
                              fix="run again with `--force adapt`")
        with torch.no_grad():
            for name, tensor in state.items():
                self.parameters[name].copy_(tensor)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Context manager: swap in the original weights; restore the trained ones on exit, bit for bit."""
        # `.data` is swapped, not copied: the parameters stay the objects that the optimizer holds.
        learnt = {name: p.data for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.data = self.original[name]
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = learnt[name]

    def cast_for_inference(self, dtype: torch.dtype) -> None:
        """Convert the weights to the dtype of the rest of the module."""
        for parameter in self.parameters.values():
            parameter.data = parameter.data.to(dtype)
