"""How are averaged weights kept beside those that learn?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dbrun.options.ema import Ema

PREFIX = "ema/"


class EmaWeights:
    """The running average of parameters, under a choice of how fast it forgets."""

    def __init__(self, choice: Ema, parameters: Sequence[nn.Parameter]) -> None:
        self.choice, self.parameters = choice, parameters
        self.shadow_params = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights that the step of this number, counted from 1, has left."""
        change = 1.0 - self.choice.decay_at(step)
        for average, parameter in zip(self.shadow_params, self.parameters, strict=True):
            average.sub_(change * (average - parameter))

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """While this is open the parameters are the averages; then, to the bit, what they were."""
        kept = [p.detach().clone() for p in self.parameters]
        self._set(self.shadow_params)
        try:
            yield
        finally:
            self._set(kept)

    def tensors(self) -> dict[str, Tensor]:
        """`ema/<number of the parameter>` -> a copy on the CPU."""
        return {f"{PREFIX}{i}": t.to("cpu", copy=True).contiguous() for i, t in enumerate(self.shadow_params)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the averages that `tensors` gave."""
        for i, average in enumerate(self.shadow_params):
            average.copy_(tensors[f"{PREFIX}{i}"])

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
