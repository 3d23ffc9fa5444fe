"""Every adapter type found, and the variants of those that have some, as a recipe writes them."""

from typing import Any

import torch

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.attach import attach, match_layers, read_weights
from dbrun.adapters.base import Adapter, adapter_types
from dbrun.models.base import Model

KINDS: dict[str, dict[str, Any]] = {
    **{kind.NAME: {"type": kind.NAME} for kind in adapter_types() if kind.uses_peft},
    "rslora": {"type": "lora", "rank": 4, "alpha": 3.0, "rslora": True},
    "dora": {"type": "lora", "rank": 2, "alpha": 3.0, "dora": True},
    "pissa": {"type": "lora", "rank": 2, "alpha": 3.0, "start": "pissa"},
    "loha-effective": {"type": "loha", "rank": 2, "alpha": 3.0, "effective_conv": True},
    "lokr-thin": {"type": "lokr", "rank": 1, "alpha": 3.0, "factor": 8, "decompose_both": True, "effective_conv": True},
    "oft-shared": {"type": "oft", "block_size": 4, "share": True},
}
"""Name -> settings; a new file in dbrun/adapters stands here by itself, with its defaults."""


def make(name: str, **changes: Any) -> Adapter:
    """The adapter of this name."""
    settings = {**KINDS.get(name, {"type": name}), **changes}
    kind = next(kind for kind in adapter_types() if settings["type"] == kind.NAME)
    return kind.model_validate(settings)


def widest(adapter: Adapter) -> str:
    """The widest preset that it can go on."""
    return "linear" if adapter.linear_only_reason else "all"


def put(model: Model, component: str, adapter: Adapter, preset: str,
        seed: int = 0) -> ComponentAdapter:
    """The adapter on a component of loaded, by this preset, or the widest where it has no such preset."""
    module, presets = model.module(component), model.family.target_presets[component]
    patterns = presets.get(preset, list(presets.values())[-1])
    modules = match_layers(module, patterns, adapter.layer_classes)
    attach(module, adapter, modules, seed=seed)
    return ComponentAdapter(adapter.resolved_for(modules), modules, read_weights(module))


def moved(attached: ComponentAdapter, by: float, seed: int = 0) -> ComponentAdapter:
    """The same adapter as if it had learnt: every weight that trains, moved by noise of this size."""
    draw = torch.Generator().manual_seed(seed)
    return ComponentAdapter(attached.adapter, attached.modules, {
        name: tensor if name.startswith("start/") else tensor + by * torch.randn(tensor.shape, generator=draw)
        for name, tensor in attached.state.items()})
