"""Merging a peft adapter into the weights of its layers, and removing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.adapters.attach import DIRECT_ATTRIBUTE
from dbrun.errors import RecipeError
from dbrun.formats.layer_updates import remove_updates
from dbrun.formats.older_transformers import without_twins
from dbrun.formats.reader_errors import FIX, reader_errors
from dbrun.models.base import Model
from dbrun.models.offload import on_device
from dbrun.safetensors_header import tensor_shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

Read = Callable[[Path, Model, tuple[str, ...]], None]
"""Signature of `Format.read`: loads the adapters of some components from a folder onto a model."""


def merge_adapter(module: nn.Module) -> None:
    """Merge module's adapter into the weights of its layers, in place, and remove it."""
    for _, layer in _peft_layers(module):
        # peft adds to the tensor in place; the base's own tensor stays what it was, see `Model.restore`
        for parameter in layer.get_base_layer().parameters(recurse=False):
            parameter.data = parameter.data.clone()
        with on_device(module, layer):
            layer.merge()
    remove_adapter(module)


def remove_adapter(module: nn.Module) -> None:
    """Remove every peft adapter from module, in place; the layers below it stay as they are."""
    for name, layer in _peft_layers(module):
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, layer.get_base_layer())
    # diffusers, transformers and peft take these attributes for a sign of an adapter.
    for mark in ("peft_config", "_hf_peft_config_loaded"):
        if mark in vars(module):
            delattr(module, mark)


def restore_base(model: Model) -> None:
    """Remove all adapters, new words and changes of weights; the model is the base as it was loaded, bit for bit."""
    for module in model.loaded_modules().values():
        remove_adapter(module)
        remove_updates(module)
        vars(module).pop(DIRECT_ATTRIBUTE, None)
        disable: Any = getattr(module, "disable_gradient_checkpointing", None)
        if disable is not None:
            disable()
    model.restore()


def merged_weights(form: str, read: Read, folder: Path, model: Model,
                   components: tuple[str, ...]) -> Iterator[tuple[str, str, Tensor]]:
    """Yield changed weights [out, in …] as `Format.changed_weights` does: read, merge layer by layer, restore.

    form: the format's name. Raises RecipeError if the library fails, or ignores a weight of the files.
    """
    import torch

    try:
        with reader_errors(form, " and the ".join(components)):
            read(folder, model, components)
        _check_all_read(form, folder, model)
        for component in components:
            module = model.module(component)
            for name, layer in _peft_layers(module):
                weight = layer.get_base_layer().weight
                # Layer by layer, so that there is never a second copy of the model; restored from a copy, because
                # unmerging subtracts the update and leaves rounding behind.
                with torch.no_grad(), on_device(module, layer):
                    kept = weight.detach().clone()
                    layer.merge()
                    new = weight.detach().clone()
                    weight.copy_(kept)
                yield component, f"{name}.weight", new
    finally:
        # Of all components: a library may put adapters on more than was asked for.
        for module in model.loaded_modules().values():
            remove_adapter(module)


def _check_all_read(form: str, folder: Path, model: Model) -> None:
    """Raise RecipeError if the files in folder hold more weights than the library put onto the model."""
    from peft import get_peft_model_state_dict

    # Counted only: libraries rename the weights, and round them to the base's dtype. An alpha becomes a scale.
    written: list[str] = []
    for file in sorted(folder.rglob("*.safetensors")):
        written += [name for name in without_twins(tensor_shapes(file)) if not name.endswith(".alpha")]
    loaded = 0
    for module in model.loaded_modules().values():
        for name in getattr(module, "peft_config", {}):
            loaded += len(get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False))
    if loaded < len(written):
        raise RecipeError(f"{form} finds no place on the base for {len(written) - loaded} of its {len(written)} "
                          "weights", fix=FIX)


def _peft_layers(module: nn.Module) -> list[tuple[str, Any]]:
    """(name, layer) of every layer that peft has wrapped; a list, since callers replace layers while they iterate."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)]
