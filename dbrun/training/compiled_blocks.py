"""Regional compilation: the blocks that a denoiser repeats, each compiled by torch.compile when it first computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MAX_VARIANTS = 1024
"""Variants of a block's code that are compiled: for each width, shape of a picture, and adapter on or off. At torch's
own limit of 8 further variants would run uncompiled, and a resumed run would meet them in another order."""


@contextmanager
def compiled_blocks(denoiser: nn.Module, note: Callable[[str], None]) -> Iterator[None]:
    """Context manager: compile the repeated blocks of a denoiser; they run uncompiled again after it.

    Call it once all adapters are attached. What the compiler cannot do runs uncompiled, and `note` gets a sentence.
    """
    # imported here: it takes seconds, and few recipes ask for it
    from torch._dynamo import config

    blocks = _repeated_blocks(denoiser)
    if not blocks:
        note(f"`train.compile`: {type(denoiser).__name__} has no repeated blocks; it runs uncompiled")
        yield
        return
    backend = _FallingBack(note)
    # Static shapes: a variant then depends on its shape alone. With dynamic ones it would depend on the shapes before,
    # and a resumed run would compute other last bits.
    with config.patch(recompile_limit=MAX_VARIANTS, accumulated_recompile_limit=MAX_VARIANTS, suppress_errors=True):
        for block in blocks:
            block.compile(backend=backend, dynamic=False)
        try:
            yield
        finally:
            for block in blocks:
                block._compiled_call_impl = None


def _repeated_blocks(denoiser: nn.Module) -> Sequence[nn.Module]:
    """The blocks that diffusers names for regional compilation, or else those that it never splits over devices."""
    for attribute in ("_repeated_blocks", "_no_split_modules"):
        names = getattr(denoiser, attribute, None) or ()
        blocks = [module for module in denoiser.modules() if type(module).__name__ in names]
        if blocks:
            return blocks
    return ()


class _FallingBack:
    """Compiler of one graph: torch's inductor, or where that fails the graph as it is."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self.failed = False

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        """Function that computes the graph."""
        from torch._dynamo import lookup_backend

        try:
            compiled: Callable[..., Any] = lookup_backend("inductor")(graph, inputs)
        # whatever a compiler fails at, the numbers can be computed without it
        except Exception as error:
            if not self.failed:
                self.failed = True
                cause = str(error).strip().splitlines() or [type(error).__name__]
                self.note(f"`train.compile`: torch's compiler failed ({cause[0][:200]}); blocks run uncompiled")
            return graph.forward
        return compiled
