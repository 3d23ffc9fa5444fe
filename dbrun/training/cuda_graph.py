"""CUDA graphs of the denoiser's forward and backward pass: one launch in place of thousands of small ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dbrun.diffusion.losses import Loss
from dbrun.models.base import Condition, Model
from dbrun.training.gradient_check import TOLERANCE, gradient_difference

MAX_GRAPHS = 16
"""Shapes that get a graph of their own. Each holds its inputs and outputs; what is between they share."""


class GraphedDenoiser:
    """A denoiser whose predictions in training are replayed as a CUDA graph for each shape.

    Where no graph can be made, or one computes something else, predictions are computed as ever, and `note` gets a
    sentence. precision: `train.precision`.
    """

    def __init__(self, model: Model, precision: str, note: Callable[[str], None]) -> None:
        self.model, self.tolerance, self.note = model, TOLERANCE[precision], note
        self.is_on = model.device.type == "cuda"
        self._graphs: dict[object, Callable[..., Tensor]] = {}
        self._is_checking = False
        self._pool: Any = None
        self._checked: set[torch.Size] = set()
        if not self.is_on:
            note(f"`train.graph` needs an NVIDIA GPU, and this runs on {model.device.type}; steps run without a graph")

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The prediction [B, C, h, w], as `Model.predict`; all tensors are on the device."""
        # the frozen base and the held-out loss are computed without gradients
        if not self.is_on or not torch.is_grad_enabled():
            return self.model.predict(x_t, t, condition)
        inputs = (x_t, t, *condition.values())
        key = (*condition, *[(tensor.shape, tensor.dtype, tensor.requires_grad) for tensor in inputs])
        if key not in self._graphs:
            # made only where its gradient is compared at once
            if not self._is_checking or len(self._graphs) == MAX_GRAPHS:
                return self.model.predict(x_t, t, condition)
            try:
                self._graphs[key] = self._capture(tuple(condition), inputs)
            # whatever an operation does that no graph can hold, such as a read of a number, it can do without
            except Exception as error:
                self._turn_off(f"no graph could be made ({(str(error).strip().splitlines() or ['no message'])[0]})")
                return self.model.predict(x_t, t, condition)
        return self._graphs[key](*inputs)

    def check(self, shape: torch.Size, loss: Callable[[], Loss], parameters: Sequence[nn.Parameter]) -> None:
        """Compare the gradient of a loss with that without a graph, once for each shape; turn graphs off if it differs.

        shape: of the latents; loss: computes it, the same each time; parameters: those that learn.
        """
        if not self.is_on or shape in self._checked:
            return
        self._checked.add(shape)
        self._is_checking = True
        try:
            difference = gradient_difference(loss, parameters, self.paused)
        finally:
            self._is_checking = False
        # not `>`: nan is a difference, too
        if self.is_on and not difference <= self.tolerance:
            self._turn_off(f"a graph gives another gradient (by {difference:.1%} of its norm)")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context manager: compute without graphs."""
        was_on, self.is_on = self.is_on, False
        try:
            yield
        finally:
            self.is_on = was_on

    def own_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Copy gradients out of a graph's memory, before the next micro-batch of a step writes there."""
        if not self.is_on:
            return
        reached = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in reached if parameter.grad is not None]
        # one launch for all
        copies = torch._foreach_mul(gradients, 1.0)
        for parameter, copy in zip(reached, copies, strict=True):
            parameter.grad = copy

    def _capture(self, names: Sequence[str], inputs: Sequence[Tensor]) -> Callable[..., Tensor]:
        """Function of x_t, t and the condition's tensors in the order of `names` that replays a graph."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        # zeros: if a graph did not take its inputs anew, the check would see it
        samples = tuple(torch.zeros_like(tensor).requires_grad_(tensor.requires_grad) for tensor in inputs)
        device = self.model.device.type
        # the copies that autocast keeps belong to no graph
        with torch.autocast(device, dtype=torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device),
                            cache_enabled=False):
            graphed: Any = torch.cuda.make_graphed_callables(
                _Predicting(self.model, names), samples, allow_unused_input=True, pool=self._pool)
        replay: Callable[..., Tensor] = graphed
        return replay

    def _turn_off(self, why: str) -> None:
        self.is_on = False
        self._graphs.clear()
        self.note(f"`train.graph`: {why}; steps run without one")


class _Predicting(nn.Module):
    """The model's prediction as a module with tensors for its inputs, as a graph takes it."""

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__()
        # its parameters are the graph's
        self.denoiser = model.denoiser
        self.model, self.names = model, names

    def forward(self, x_t: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        """The prediction [B, C, h, w]. condition: tensors in the order of their names."""
        named: Mapping[str, Tensor] = dict(zip(self.names, condition, strict=True))
        return self.model.predict(x_t, t, named)
