"""Conversion of an adapter from another program to one of dbrun's adapter types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.attach import attach, read_weights
from dbrun.adapters.base import adapter_types
from dbrun.errors import RecipeError
from dbrun.formats.merge_weights import remove_adapter

if TYPE_CHECKING:
    from torch import nn

    from dbrun.adapters.import_adapter import ImportedAdapter


def convert_imported(given: ImportedAdapter, module: nn.Module) -> tuple[ComponentAdapter, tuple[str, ...]]:
    """The adapter as one of dbrun's types, and what was changed about it, in words; module has no adapter afterwards.

    Raises RecipeError for a type that no recipe can have, and for weights that no single setting of the type gives.
    """
    # An enum if peft itself read the config, else text.
    peft_type = given.config["peft_type"]
    type_name = str(getattr(peft_type, "value", peft_type)).lower()
    able = {kind.NAME: kind for kind in adapter_types() if kind.uses_peft}
    if type_name not in able:
        raise RecipeError(f"it is an adapter of type {type_name}, which recipes do not support",
                          fix=f"use it as it is, by `dbrun sample` or `dbrun merge --how full`; or name one of "
                          f"{', '.join(able)}")
    kind = able[type_name]
    for candidate in kind.import_candidates(given):
        settings = {"type": kind.NAME, **candidate.settings, "targets": given.modules}
        adapter = kind.model_validate(settings).resolved_for(given.modules)
        # peft itself says which shapes these settings give: rebuilding its rules here would drift from it.
        attach(module, adapter, given.modules, seed=None)
        expected = {name: tuple(tensor.shape) for name, tensor in read_weights(module).items()}
        remove_adapter(module)
        if expected == {name: tuple(tensor.shape) for name, tensor in candidate.state.items()}:
            state = {name: tensor.clone() for name, tensor in candidate.state.items()}
            return ComponentAdapter(adapter, given.modules, state), candidate.changes
    raise RecipeError(f"its {type_name} weights differ from layer to layer in a way that no one setting gives",
                      fix="use the file as it is: `dbrun sample` and ComfyUI take it")
