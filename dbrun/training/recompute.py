"""How can a step need less memory without giving other numbers?"""

from __future__ import annotations

from typing import Any

import torch

from dbrun.models.base import Model


def enable_gradient_checkpointing(model: Model) -> None:
    """From now on compute activations a second time in the backward pass instead of keeping them.

    In the denoiser and in every text encoder that is adapted; transformers keeps the activations of one through which
    gradients only pass, to a trigger, since it is not in training mode. Dropout repeats its draws, so that the numbers
    are the same.
    """
    for component in model.family.components:
        _enable(model.module(component))


def peak_mib() -> float:
    """The most memory that was held so far, in MiB: the GPU's where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource
    import sys

    # bytes on a Mac, KiB elsewhere
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def _enable(module: Any) -> None:
    """By the library's own switch: diffusers' and transformers' models each have one."""
    if hasattr(module, "enable_gradient_checkpointing"):
        module.enable_gradient_checkpointing()
    else:
        module.activation_checkpointing_enable()
