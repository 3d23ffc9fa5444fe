"""What would the base itself have answered, while its adapters are learning?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from dbrun.adapters.attach import disabled


@contextmanager
def as_base(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While this is open, the modules are the frozen base: no adapter, no dropout, no gradient; then as they were."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for module in modules:
            stack.callback(module.train, module.training)
            stack.enter_context(disabled(module))
            module.eval()
        yield
