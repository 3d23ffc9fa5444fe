"""How are adapters kept in a folder between stages?"""

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

if TYPE_CHECKING:
    from torch import Tensor, nn

INDEX = "adapter.json"


@dataclass(frozen=True)
class ComponentAdapter:
    """What learns in one component. modules: full names of the adapted layers; state: weights by name, as peft has it.

    A trigger, which stands on no layer, has no modules.
    """

    adapter: Learnable
    modules: tuple[str, ...]
    state: Mapping[str, Tensor]

    def attach_to(self, module: nn.Module) -> None:
        """Attach the adapter to module and set its weights."""
        attach(module, self.adapter, self.modules, seed=None)
        write_weights(module, self.state)


def write_adapters(folder: Path, components: Mapping[str, ComponentAdapter]) -> None:
    """Write `<component>.safetensors` and `adapter.json`; equal adapters give equal bytes."""
    from safetensors.torch import save_file

    index = {name: {"adapter": c.adapter.to_json(), "modules": list(c.modules)}
             for name, c in sorted(components.items())}
    (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for name, attached in components.items():
        save_file(dict(attached.state), folder / f"{name}.safetensors")


def read_adapters(folder: Path) -> dict[str, ComponentAdapter]:
    """What `write_adapters` wrote there, by component."""
    from safetensors.torch import load_file

    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    if not isinstance(index, dict):
        raise StoreCorrupt(f"{folder / INDEX} holds no table of adapters")
    kind: TypeAdapter[Learnable] = TypeAdapter(cast(Any, tagged_union((*adapter_types(), Embedding))))
    return {name: ComponentAdapter(kind.validate_json(json.dumps(_with_targets(entry))), tuple(entry["modules"]),
                                   load_file(folder / f"{name}.safetensors")) for name, entry in index.items()}


def _with_targets(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An adapter's document with the layers that it stands on, as its targets."""
    return {**entry["adapter"], **({"targets": entry["modules"]} if entry["modules"] else {})}
