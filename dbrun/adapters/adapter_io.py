"""Adapters in a folder between two stages: `adapter.json` and one safetensors file per component."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import TypeAdapter

from dbrun.adapters.attach import attach, write_weights
from dbrun.adapters.base import Learnable, adapter_types
from dbrun.adapters.embedding import Embedding
from dbrun.config_types import tagged_union
from dbrun.errors import StoreCorrupt
from dbrun.input_file import read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

INDEX = "adapter.json"


@dataclass(frozen=True)
class ComponentAdapter:
    """The adapter of one component, with its weights.

    modules: full names of the adapted layers, empty for a trigger, which belongs to no layer;
    state: the weights by peft's names, float32.
    """

    adapter: Learnable
    modules: tuple[str, ...]
    state: Mapping[str, Tensor]

    def attach_to(self, module: nn.Module) -> None:
        """Attach the adapter to module in place and set its weights. Raises StageFailed if they do not fit."""
        attach(module, self.adapter, self.modules, seed=None)
        write_weights(module, self.state)


def write_adapters(folder: Path, components: Mapping[str, ComponentAdapter]) -> None:
    """Write `<component>.safetensors` and `adapter.json`; equal adapters give equal bytes."""
    from safetensors.torch import save_file

    # Sorted twice (components here, keys below): the store names this folder by the digest of its bytes.
    index = {}
    for name, attached in sorted(components.items()):
        index[name] = {"adapter": attached.adapter.to_json(), "modules": list(attached.modules)}
    text = json.dumps(index, indent=1, sort_keys=True) + "\n"
    (folder / INDEX).write_text(text, encoding="utf-8")
    for name, attached in components.items():
        save_file(dict(attached.state), folder / f"{name}.safetensors")


def read_index(folder: Path) -> dict[str, Any]:
    """Component -> its settings and layers, without the weights. Raises StoreCorrupt if it is no JSON object."""
    index = read_json(folder / INDEX)
    if not isinstance(index, dict):
        raise StoreCorrupt(f"{folder / INDEX} is not an index of adapters")
    return index


def read_adapters(folder: Path) -> dict[str, ComponentAdapter]:
    """Component -> its adapter, as `write_adapters` wrote them. Raises StoreCorrupt if the index is no JSON object."""
    from safetensors.torch import load_file

    index = read_index(folder)
    union = tagged_union((*adapter_types(), Embedding))
    parser: TypeAdapter[Learnable] = TypeAdapter(cast(Any, union))
    components = {}
    for name, entry in index.items():
        # As JSON text, not as Python data: strict models take a list for a tuple only when they read JSON.
        adapter = parser.validate_json(json.dumps(_with_targets(entry)))
        state = load_file(folder / f"{name}.safetensors")
        components[name] = ComponentAdapter(adapter, tuple(entry["modules"]), state)
    return components


def _with_targets(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An adapter's settings, with the adapted layers as its targets."""
    settings = dict(entry["adapter"])
    # `Embedding` has no field `targets`, and no modules either.
    if entry["modules"]:
        settings["targets"] = entry["modules"]
    return settings
