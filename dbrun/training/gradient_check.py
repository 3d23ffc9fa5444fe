"""Comparison of the gradient of a faster step with that of a plain one, before the faster one is trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from dbrun.diffusion.losses import Loss

TOLERANCE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.1}
"""`train.precision` -> most that a gradient may differ from the plain one, as a share of its norm."""


def gradient_difference(loss: Callable[[], Loss], parameters: Sequence[nn.Parameter],
                        plain: Callable[[], AbstractContextManager[object]]) -> float:
    """The norm of the difference of two gradients, as a share of that of the plain one; nan where a number is none.

    loss: computes it, the same each time; parameters: of which those count that learn; plain: makes a context
    manager under which the step is computed as it always was.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    fast = _flat_gradient(loss(), trained)
    with plain():
        slow = _flat_gradient(loss(), trained)
    difference: float = ((fast - slow).norm() / slow.norm()).item()
    return difference


def _flat_gradient(loss: Loss, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradients of the parameters one after the other, float32 [their size]; zeros where there is none."""
    gradients = torch.autograd.grad(loss.total, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.float().reshape(-1) for gradient in gradients])
