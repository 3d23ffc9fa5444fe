"""Updates of weights that a layer has only while it computes, so that no second copy of a component is in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

HANDLES = "layer_updates"
"""Attribute of a component's module: what removes its updates."""


def update_while_computing(module: nn.Module, layer: nn.Module, updated: Callable[[], Mapping[str, Tensor]]) -> None:
    """Let a layer of module compute with other weights. updated: name of a parameter -> its weights, of equal shape.

    Between two calls the layer has its own tensors, bit for bit.
    """
    own: dict[str, Tensor] = {}

    def put_in(_layer: nn.Module, _inputs: Any) -> None:
        for name, new in updated().items():
            parameter = layer.get_parameter(name)
            own[name] = parameter.data
            parameter.data = new.to(parameter)

    def take_out(_layer: nn.Module, _inputs: Any, _output: Any) -> None:
        while own:
            name, tensor = own.popitem()
            layer.get_parameter(name).data = tensor

    handles = vars(module).setdefault(HANDLES, [])
    handles.append(layer.register_forward_pre_hook(put_in))
    # also where the layer fails: what comes after it finds the base
    handles.append(layer.register_forward_hook(take_out, always_call=True))


def remove_updates(module: nn.Module) -> None:
    """Remove all updates of a component's layers."""
    for handle in vars(module).pop(HANDLES, []):
        handle.remove()
