"""Regional compilation: the blocks that a denoiser repeats, each compiled by torch.compile when it first computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dbrun.diffusion.losses import Loss
from dbrun.training.gradient_check import TOLERANCE, gradient_difference

MAX_VARIANTS = 1024
"""Variants of a block's code that are compiled: for each width, shape of a picture, and adapter on or off. At torch's
own limit of 8 further variants would run uncompiled, and a resumed run would meet them in another order."""


class CompiledBlocks:
    """The repeated blocks of a denoiser while they are compiled. The list is empty once they run as they are again.

    What the compiler cannot do, or does wrong, runs uncompiled, and `note` gets a sentence.
    """

    def __init__(self, denoiser: nn.Module, precision: str, note: Callable[[str], None]) -> None:
        self.blocks = _repeated_blocks(denoiser)
        self.tolerance, self.note = TOLERANCE[precision], note
        self._checked: set[torch.Size] = set()
        self._failed = False
        if not self.blocks:
            note(f"`train.compile`: {type(denoiser).__name__} has no repeated blocks; it runs uncompiled")
        for block in self.blocks:
            # Static shapes: a variant then depends on its shape alone. With dynamic ones it would depend on the shapes
            # before, and a resumed run would compute other last bits.
            block.compile(backend=self._compile_graph, dynamic=False)

    def stop(self) -> None:
        """Let the blocks run as they are."""
        for block in self.blocks:
            block._compiled_call_impl = None
        self.blocks = ()

    def check(self, shape: torch.Size, loss: Callable[[], Loss], parameters: Sequence[nn.Parameter]) -> None:
        """Compare the gradient of a loss with the uncompiled one, once for each shape; stop where they differ.

        shape: of the latents; loss: computes it, the same each time; parameters: those that learn.
        """
        # Measured with torch 2.13 on a CPU: of a block of width 16 the gradient was off by 17 % where its input was
        # transposed in memory, without a word.
        if not self.blocks or shape in self._checked:
            return
        self._checked.add(shape)
        difference = gradient_difference(loss, parameters, self.paused)
        # not `>`: nan is a difference, too
        if not difference <= self.tolerance:
            self.stop()
            self.note(f"`train.compile`: compiled blocks give another gradient (by {difference:.1%} of its norm); "
                      "they run uncompiled")

    def paused(self) -> AbstractContextManager[object]:
        """Context manager: compute uncompiled, from the call on; compiled blocks are kept for later."""
        # the stance changes when the object is made, and back at the end of its context
        stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
        return stance

    def _compile_graph(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        """Function that computes a graph: compiled by torch's inductor, or where that fails the graph as it is."""
        from torch._dynamo import lookup_backend

        try:
            compiled: Callable[..., Any] = lookup_backend("inductor")(graph, inputs)
        # whatever a compiler fails at, the numbers can be computed without it
        except Exception as error:
            if not self._failed:
                self._failed = True
                cause = str(error).strip().splitlines() or [type(error).__name__]
                self.note(f"`train.compile`: torch's compiler failed ({cause[0][:200]}); blocks run uncompiled")
            return graph.forward
        return compiled


@contextmanager
def compiled_blocks(denoiser: nn.Module, precision: str, note: Callable[[str], None]) -> Iterator[CompiledBlocks]:
    """Context manager: compile the repeated blocks of a denoiser; they run as they are again after it.

    precision: `train.precision`; note: gets a sentence where something runs uncompiled. Call it once all adapters are
    attached.
    """
    # imported here: they take seconds, and few recipes ask for it
    from torch._dynamo import config
    from torch._inductor import config as inductor_config

    # fallback_random: dropout draws what it draws uncompiled
    with (config.patch(recompile_limit=MAX_VARIANTS, accumulated_recompile_limit=MAX_VARIANTS, suppress_errors=True),
          inductor_config.patch(fallback_random=True)):
        compiled = CompiledBlocks(denoiser, precision, note)
        try:
            yield compiled
        finally:
            compiled.stop()


def _repeated_blocks(denoiser: nn.Module) -> Sequence[nn.Module]:
    """The blocks that diffusers names for regional compilation, or else those that it never splits over devices."""
    for attribute in ("_repeated_blocks", "_no_split_modules"):
        names = getattr(denoiser, attribute, None) or ()
        blocks = [module for module in denoiser.modules() if type(module).__name__ in names]
        if blocks:
            return blocks
    return ()
