"""Gradient checkpointing, and the peak memory of this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from dbrun.models.base import Model


def enable_gradient_checkpointing(model: Model) -> None:
    """Recompute activations in the backward pass instead of storing them: less memory, more time, the same numbers.

    In the denoiser and in the text encoders that are in memory, which are those that train. Call it once all adapters
    are attached.
    """
    # Dropout repeats its draws, so that results are the same. transformers checkpoints only modules in training mode: a
    # text encoder that merely passes gradients on to a trigger word keeps its activations.
    for module in (model.denoiser, *_loaded_text_encoders(model)):
        _enable(module)


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


def _loaded_text_encoders(model: Model) -> Iterator[nn.Module]:
    loaded = model.loaded_modules()
    for component in model.family.components:
        if component != "denoiser" and component in loaded:
            yield loaded[component]


def _enable(module: Any) -> None:
    """Turn gradient checkpointing on by the library's own method: diffusers' name first, else transformers'."""
    if hasattr(module, "enable_gradient_checkpointing"):
        module.enable_gradient_checkpointing()
    else:
        module.activation_checkpointing_enable()
