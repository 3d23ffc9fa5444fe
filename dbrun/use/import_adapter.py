"""Which of dbrun's adapters is one of another program, and does it stand on the base as it stood there?"""

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
    """The adapter as it stands on module, which stays bare; and what was changed about it, in words.

    Raises RecipeError for a type that no recipe can have, and for weights that no one setting of a type gives.
    """
    found = str(getattr(given.config["peft_type"], "value", given.config["peft_type"])).lower()
    able = {kind.NAME: kind for kind in adapter_types() if kind.uses_peft}
    if found not in able:
        raise RecipeError(f"it is an adapter of type {found}, which no recipe can have",
                          fix=f"use it as it is, by `dbrun sample` or `dbrun merge --how full`; or name one of "
                          f"{', '.join(able)}")
    kind = able[found]
    for way in kind.import_candidates(given):
        settings = {"type": kind.NAME, **way.settings, "targets": given.modules}
        adapter = kind.model_validate(settings).resolved_for(given.modules)
        attach(module, adapter, given.modules, seed=None)
        shapes = {name: tuple(tensor.shape) for name, tensor in read_weights(module).items()}
        remove_adapter(module)
        if shapes == {name: tuple(tensor.shape) for name, tensor in way.state.items()}:
            state = {name: tensor.clone() for name, tensor in way.state.items()}
            return ComponentAdapter(adapter, given.modules, state), way.changes
    raise RecipeError(f"its {found} weights differ from layer to layer in a way that no one setting gives",
                      fix="use the file as it is: `dbrun sample` and ComfyUI take it")
