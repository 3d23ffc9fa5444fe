"""What would the base itself have answered, while its adapters are learning?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from dbrun.adapters.attach import disable_adapter
from dbrun.training.param_groups import eval_mode


@contextmanager
def frozen_base(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While this is open, the modules are the frozen base: no adapter, no dropout, no gradient; then as they were."""
    every = list(modules)
    with ExitStack() as stack:
        for module in every:
            stack.enter_context(disable_adapter(module))
        stack.enter_context(eval_mode(every))
        yield
