"""Context manager under which modules with attached adapters answer as the frozen base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from dbrun.adapters.attach import disable_adapter
from dbrun.training.param_groups import eval_mode


@contextmanager
def frozen_base(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Context manager: switch off adapters, dropout and gradients, so that the modules compute as the frozen base."""
    # two passes over them: an iterator would be empty at the second
    every = list(modules)
    with ExitStack() as stack:
        for module in every:
            stack.enter_context(disable_adapter(module))
        stack.enter_context(eval_mode(every))
        yield
