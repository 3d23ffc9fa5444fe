"""Which export formats can carry a recipe's adapters, as far as is known before anything is loaded?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dbrun.formats.base import formats, listed_formats
from dbrun.models.base import families
from dbrun.recipe.schema.model import Recipe


def export_formats(recipe: Recipe) -> tuple[str, ...]:
    """The formats to write: those asked for, or else those that fit."""
    return recipe.export or default_formats(recipe)


def default_formats(recipe: Recipe) -> tuple[str, ...]:
    """The formats that can carry what they are for, wherever they are read; a whole component only where nothing
    smaller can."""
    able = tuple(name for name in listed_formats()
                 if unsupported_reason(recipe, name) is None and not _has_caution(recipe, name))
    small, large = (tuple(name for name in able if formats()[name].LARGE is size) for size in (False, True))
    if not uncovered_components(recipe, small):
        return small
    return tuple(name for name in able if name in (*small, *large[:1]))


def unsupported_reason(recipe: Recipe, name: str) -> str | None:
    """Why the format of this name cannot carry what it is for; None where it can."""
    family, form = families()[recipe.base.type], formats()[name]
    own = [component for component in recipe.adapt.components if form.supports(family, component)]
    if not own:
        return f"which carries {form.CONTENT}, and the recipe has none"
    adapters = recipe.adapt.adapters
    reasons = (form.unsupported_reason(family, component, adapters[component])
               for component in own if component in adapters)
    return next((reason for reason in reasons if reason), None)


def _has_caution(recipe: Recipe, name: str) -> bool:
    family, form = families()[recipe.base.type], formats()[name]
    return any(form.compatibility_warning(family, component, adapter)
               for component, adapter in recipe.adapt.adapters.items()
               if component in family.components)


@dataclass(frozen=True)
class ExportOptions:
    """What becomes of each format. possible: those that could be asked for besides; refused: name -> why not."""

    written: tuple[str, ...]
    possible: tuple[str, ...]
    refused: Mapping[str, str]


def export_options(recipe: Recipe, base: Path | None) -> ExportOptions:
    """Which formats are written, which others could be, and why not the rest. base: its folder, if it is here."""
    family, written = families()[recipe.base.type], export_formats(recipe)
    refused = {name: why for name in listed_formats()
               if (why := unsupported_reason(recipe, name)
                   or (base and formats()[name].unsupported_base_reason(family, base)))}
    possible = tuple(name for name in listed_formats() if name not in (*written, *refused))
    return ExportOptions(written, possible, refused)


def uncovered_components(recipe: Recipe, names: Iterable[str]) -> tuple[str, ...]:
    """The components that none of these formats is for."""
    family, forms = families()[recipe.base.type], [formats()[name] for name in names]
    return tuple(component for component in recipe.adapt.components
                 if not any(form.supports(family, component) for form in forms))
