"""Which export formats can carry a recipe's adapters, as far as is known before anything is loaded?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

from dbrun.adapters.base import Adapter
from dbrun.families.base import Family, families
from dbrun.recipe.model import Export, Recipe


def chosen(recipe: Recipe) -> tuple[str, ...]:
    """The formats to write: those asked for, or else those that fit."""
    return recipe.export or fitting(recipe)


def fitting(recipe: Recipe) -> tuple[str, ...]:
    """The formats that can carry every adapter; a whole component only where nothing smaller can."""
    able = tuple(name for name in get_args(Export) if refusal(recipe, name) is None)
    return tuple(name for name in able if name not in LARGE) or able


def refusal(recipe: Recipe, name: str) -> str | None:
    """Why the format of this name cannot carry the recipe's adapters; None where it can."""
    family = families()[recipe.base.type]
    reasons = (NEEDS[name](family, component, adapter) for component, adapter in recipe.adapt.components.items())
    return next((reason for reason in reasons if reason), None)


def _pairs_of_the_pipeline(family: Family, component: str, adapter: Adapter) -> str | None:
    if not adapter.as_lora:
        return f"which carries LoRA only, and `adapt.{component}` is of type {adapter.NAME}"
    if component not in family.prefixes:
        return f"whose `load_lora_weights` takes no {component} on `base.type: {family.NAME}`"
    return None


def _beside_the_base(family: Family, component: str, adapter: Adapter) -> str | None:
    if not adapter.by_peft:
        return f"which carries adapters, and `adapt.{component}` is of type {adapter.NAME}"
    return None


def _anything(family: Family, component: str, adapter: Adapter) -> str | None:
    return None


NEEDS: Mapping[str, Callable[[Family, str, Adapter], str | None]] = {
    "diffusers": _pairs_of_the_pipeline, "peft": _beside_the_base, "component": _anything}
"""Format -> why it cannot carry this adapter of this component, or None."""
LARGE = ("component",)
"""Formats as large as the base's parts, which are written only where they are asked for or nothing else fits."""
