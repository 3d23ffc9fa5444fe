"""Which of dbrun's adapters is one of another program, and does it stand on the base as it stood there?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbrun.adapters.adapter_io import Attached
from dbrun.adapters.attach import attach, read
from dbrun.adapters.base import types
from dbrun.errors import RecipeError
from dbrun.formats.merge_weights import strip

if TYPE_CHECKING:
    from torch import nn

    from dbrun.formats.peft_import import Given


def recast(given: Given, module: nn.Module) -> tuple[Attached, tuple[str, ...]]:
    """The adapter as it stands on module, which stays bare; and what was changed about it, in words.

    Raises RecipeError for a type that no recipe can have, and for weights that no one setting of a type gives.
    """
    found = str(getattr(given.config["peft_type"], "value", given.config["peft_type"])).lower()
    able = {kind.NAME: kind for kind in types() if kind.by_peft}
    if found not in able:
        raise RecipeError(f"it is an adapter of type {found}, which no recipe can have",
                          fix=f"use it as it is, by `dbrun sample` or `dbrun merge --how full`; or name one of "
                          f"{', '.join(able)}")
    kind = able[found]
    for way in kind.recasts(given):
        settings = {"type": kind.NAME, **way.settings, "targets": given.modules}
        adapter = kind.model_validate(settings).decided(given.modules)
        attach(module, adapter, given.modules, seed=None)
        shapes = {name: tuple(tensor.shape) for name, tensor in read(module).items()}
        strip(module)
        if shapes == {name: tuple(tensor.shape) for name, tensor in way.state.items()}:
            state = {name: tensor.clone() for name, tensor in way.state.items()}
            return Attached(adapter, given.modules, state), way.changed
    raise RecipeError(f"its {found} weights differ from layer to layer in a way that no one setting gives",
                      fix="use the file as it is: `dbrun sample` and ComfyUI take it")
