"""How does what stands beside a layer get into its weight, or off it again?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.models.base import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

Read = Callable[[Path, Model, tuple[str, ...]], None]
"""`Format.read`: puts the adapters of some components, which stand in a folder, onto a model."""


def merge_adapter(module: nn.Module) -> None:
    """Put an adapter into the weights that it stands beside, and take it away."""
    for _, layer in _peft_layers(module):
        layer.merge()
    remove_adapter(module)


def remove_adapter(module: nn.Module) -> None:
    """Take an adapter of peft's away from module; the layers beneath stay as they are."""
    for name, layer in _peft_layers(module):
        above, _, last = name.rpartition(".")
        setattr(module.get_submodule(above), last, layer.get_base_layer())
    for mark in ("peft_config", "_hf_peft_config_loaded"):
        if mark in vars(module):
            delattr(module, mark)


def merged_weights(read: Read, folder: Path, model: Model,
                   components: tuple[str, ...]) -> Iterator[tuple[str, str, Tensor]]:
    """As `Format.changed_weights`: read by the format's library, merged layer by layer, and taken away again."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(folder, model, components)
        for component in components:
            for name, layer in _peft_layers(model.module(component)):
                weight = layer.get_base_layer().weight
                with torch.no_grad():
                    kept = weight.detach().clone()
                    layer.merge()
                    new = weight.detach().clone()
                    weight.copy_(kept)
                yield component, f"{name}.weight", new
    finally:
        for component in model.family.components:
            remove_adapter(model.module(component))


def _peft_layers(module: nn.Module) -> list[tuple[str, Any]]:
    """The layers that peft has put something beside, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)]
