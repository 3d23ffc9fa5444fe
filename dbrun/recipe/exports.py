"""Which export formats can carry a recipe's adapters, as far as is known before anything is loaded?"""

from __future__ import annotations

from typing import get_args

from dbrun.families.base import families
from dbrun.formats.base import formats
from dbrun.recipe.model import Export, Recipe


def chosen(recipe: Recipe) -> tuple[str, ...]:
    """The formats to write: those asked for, or else those that fit."""
    return recipe.export or fitting(recipe)


def fitting(recipe: Recipe) -> tuple[str, ...]:
    """The formats that can carry every adapter; a whole component only where nothing smaller can."""
    able = tuple(name for name in get_args(Export) if refusal(recipe, name) is None)
    return tuple(name for name in able if not formats()[name].LARGE) or able


def refusal(recipe: Recipe, name: str) -> str | None:
    """Why the format of this name cannot carry the recipe's adapters; None where it can."""
    family, form = families()[recipe.base.type], formats()[name]
    reasons = (form.refuses(family, component, adapter) for component, adapter in recipe.adapt.components.items())
    return next((reason for reason in reasons if reason), None)
