"""What makes the steps of a training faster where a recipe asks for it: compiled blocks, and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dbrun.diffusion.losses import Loss
from dbrun.models.base import Condition, Model
from dbrun.training.settings import TrainParams

if TYPE_CHECKING:
    from dbrun.training.compiled_blocks import CompiledBlocks
    from dbrun.training.cuda_graph import GraphedDenoiser


@dataclass(frozen=True)
class Speedups:
    """The speedups of a training. compiled, graphed: None where the recipe does not ask for it."""

    compiled: CompiledBlocks | None = None
    graphed: GraphedDenoiser | None = None

    def check(self, shape: torch.Size, loss: Callable[[], Loss], parameters: Sequence[nn.Parameter]) -> None:
        """Compare the gradient of a loss with that of a plain step, once for each shape; what differs is turned off.

        shape: of the latents; loss: computes it, the same each time; parameters: those that learn.
        """
        if self.compiled is not None:
            # a graph made of compiled blocks would replay them in the plain step, too
            with nullcontext() if self.graphed is None else self.graphed.paused():
                self.compiled.check(shape, loss, parameters)
        if self.graphed is not None:
            self.graphed.check(shape, loss, parameters)

    def predict(self, model: Model, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The prediction [B, C, h, w], as `Model.predict`."""
        if self.graphed is None:
            return model.predict(x_t, t, condition)
        return self.graphed.predict(x_t, t, condition)

    def own_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Copy gradients out of what the next micro-batch of a step writes into."""
        if self.graphed is not None:
            self.graphed.own_gradients(parameters)

    def for_sampling(self) -> AbstractContextManager[Any]:
        """Context manager to draw pictures in: a few are not worth the compilation of their shapes."""
        return nullcontext() if self.compiled is None else self.compiled.paused()


PLAIN = Speedups()
"""A training without any."""


@contextmanager
def speedups(model: Model, params: TrainParams, note: Callable[[str], None]) -> Iterator[Speedups]:
    """Context manager: what the params ask for; the denoiser runs as it is again after it.

    note: gets a sentence where something is not possible. Call it once all adapters are attached.
    """
    # imported where they are asked for: torch's compiler alone takes seconds
    with ExitStack() as stack:
        compiled = graphed = None
        if params.compile:
            from dbrun.training.compiled_blocks import compiled_blocks

            compiled = stack.enter_context(compiled_blocks(model.denoiser, params.precision, note))
        if params.graph:
            from dbrun.training.cuda_graph import GraphedDenoiser

            graphed = GraphedDenoiser(model, params.precision, note)
        yield Speedups(compiled, graphed)
