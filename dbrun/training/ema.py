"""Exponential moving average (EMA) of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dbrun.options.ema import Ema

PREFIX = "ema/"


class EmaWeights:
    """The moving average of parameters. choice: the decay; shadow_params: the averages, shaped as the parameters."""

    def __init__(self, choice: Ema, parameters: Sequence[nn.Parameter]) -> None:
        self.choice, self.parameters = choice, parameters
        self.shadow_params = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move each average towards its parameter: average -= (1 - decay) * (average - parameter).

        step: the number of the optimizer step that just ended, counted from 1.
        """
        change = 1.0 - self.choice.decay_at(step)
        for average, parameter in zip(self.shadow_params, self.parameters, strict=True):
            average.sub_(change * (average - parameter))

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Context manager: swap in the averages; restore the training weights bit for bit on exit."""
        kept = [p.detach().clone() for p in self.parameters]
        self._set(self.shadow_params)
        try:
            yield
        finally:
            self._set(kept)

    def tensors(self) -> dict[str, Tensor]:
        """The averages for a checkpoint: `ema/<number of the parameter>` -> a copy on the CPU, such as [out, in]."""
        copies: dict[str, Tensor] = {}
        for i, average in enumerate(self.shadow_params):
            copies[f"{PREFIX}{i}"] = average.to("cpu", copy=True).contiguous()
        return copies

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the averages, such as [out, in], from a checkpoint's tensors, as `tensors` named them."""
        for i, average in enumerate(self.shadow_params):
            average.copy_(tensors[f"{PREFIX}{i}"])

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        """Copy the values into the parameters in place: the optimizer and autograd hold on to the same tensors."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
