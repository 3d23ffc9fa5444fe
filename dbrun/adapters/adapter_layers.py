"""Layers of a component that an adapter is attached to, from the patterns of its `targets`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbrun.adapters.attach import match_layers
from dbrun.adapters.base import TARGET_PRESETS, Adapter
from dbrun.errors import RecipeError
from dbrun.models.base import Family

if TYPE_CHECKING:
    from torch import nn


def matched_layers(family: Family, module: nn.Module, component: str, adapter: Adapter) -> tuple[str, ...]:
    """Full names of the layers of a component that the adapter's targets match, sorted.

    module: of the component, with weights or on the meta device. Raises RecipeError where a pattern matches nothing.
    """
    matched: set[str] = set()
    for patterns in target_patterns(family, component, adapter):
        matched.update(match_layers(module, patterns, adapter.layer_classes))
    # sorted: the seeded weights are drawn in this order
    return tuple(sorted(matched))


def target_patterns(family: Family, component: str, adapter: Adapter) -> tuple[tuple[str, ...], ...]:
    """Groups of module-name patterns, each of which must match a layer.

    A preset is one group; the user's own patterns are a group each, so that a misspelt one is an error. Raises
    RecipeError where the component has no such preset.
    """
    targets = adapter.targets
    if not isinstance(targets, str):
        return tuple((pattern,) for pattern in targets)
    presets = family.target_presets[component]
    if targets not in presets:
        allowed = ", ".join(p for p in TARGET_PRESETS if p in presets)
        raise RecipeError(f"{component} has no target preset `{targets}`; it has {allowed}",
                          fix=f"set `adapt.{component}.targets` to one of them, or to a list of patterns")
    return (presets[targets],)
