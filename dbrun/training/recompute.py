"""Gradient checkpointing, and the peak memory of this process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from dbrun.models.base import Model


def enable_gradient_checkpointing(model: Model, adapted: Iterable[str]) -> None:
    """Recompute activations in the backward pass instead of storing them: less memory, more time, the same numbers.

    In the denoiser and in the adapted components.
    """
    # Dropout repeats its draws, so that results are the same. transformers checkpoints only modules in training mode: a
    # text encoder that merely passes gradients on to a trigger word keeps its activations.
    for component in {"denoiser", *adapted}.intersection(model.family.components):
        _enable(model.module(component))


def peak_mib() -> float:
    """The peak memory so far, in MiB: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource
    import sys

    # ru_maxrss is in bytes on a Mac and in KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    units_per_mib = 2**20 if sys.platform == "darwin" else 2**10
    return peak / units_per_mib


def _enable(module: Any) -> None:
    """Turn gradient checkpointing on by the library's own method: diffusers' name first, else transformers'."""
    if hasattr(module, "enable_gradient_checkpointing"):
        module.enable_gradient_checkpointing()
    else:
        module.activation_checkpointing_enable()
