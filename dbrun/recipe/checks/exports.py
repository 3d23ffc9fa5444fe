"""Export formats of a recipe: which of them can carry its adapters, decided before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbrun.events import Note
from dbrun.formats.base import formats, listed_formats
from dbrun.formats.passed_over import MERGED_INSTEAD, OTHER_PROGRAMS_FORMAT, passed_over
from dbrun.models.base import families
from dbrun.recipe.schema.model import Recipe


def export_formats(recipe: Recipe) -> tuple[str, ...]:
    """Names of the formats to write: those in `export`, or else the default ones."""
    return recipe.export or default_formats(recipe)


def default_formats(recipe: Recipe) -> tuple[str, ...]:
    """Names of the formats written without `export`: all small ones that can carry the adapters without a warning.

    Where these leave out a component, the first large format that can carry the adapters is added.
    """
    able = [name for name in listed_formats()
            if unsupported_reason(recipe, name) is None and not _has_warning(recipe, name)
            and formats()[name].is_usual(families()[recipe.base.type])]
    small = tuple(name for name in able if not formats()[name].LARGE)
    large = tuple(name for name in able if formats()[name].LARGE)
    if not uncovered_components(recipe, small):
        return small
    # a large format is a whole component, gigabytes; one of them is enough
    wanted = (*small, *large[:1])
    return tuple(name for name in able if name in wanted)


def unsupported_reason(recipe: Recipe, name: str) -> str | None:
    """Why a format cannot carry the recipe's adapters, as the end of a sentence; None where it can."""
    family, form = families()[recipe.base.type], formats()[name]
    carried = [component for component in recipe.adapt.components if form.supports(family, component)]
    if not carried:
        return f"which carries {form.CONTENT}, and the recipe has none"
    adapters = recipe.adapt.adapters
    for component in carried:
        # learned tokens have no shapes or layer kinds that a format could lack
        if component not in adapters:
            continue
        reason = form.unsupported_reason(family, component, adapters[component])
        if reason:
            return reason
    return None


def _has_warning(recipe: Recipe, name: str) -> bool:
    """Whether some program would misread the format; such a format is written only where `export` names it."""
    family, form = families()[recipe.base.type], formats()[name]
    for component, adapter in recipe.adapt.adapters.items():
        if component in family.components and form.compatibility_warning(family, component, adapter):
            return True
    return False


def reader_notes(recipe: Recipe, layers: Mapping[str, Sequence[str]]) -> Iterator[Note]:
    """Yield notes on programs that read a written format otherwise than it was trained, or not in full.

    layers: component → full names of its adapted layers, empty while the base is not here.
    """
    family, written = families()[recipe.base.type], export_formats(recipe)
    warnings: dict[str, None] = {}
    for name in written:
        for component, adapter in recipe.adapt.adapters.items():
            warning = None
            if component in family.components:
                warning = formats()[name].compatibility_warning(family, component, adapter)
            if warning:
                # components of one type give one and the same sentence
                warnings[f"{name}: {warning}"] = None
    yield from (Note("export", text, "warning") for text in warnings)
    advice = None
    if _has_warning(recipe, OTHER_PROGRAMS_FORMAT):
        advice = MERGED_INSTEAD
    elif OTHER_PROGRAMS_FORMAT in written:
        # without the run's name, so that the runs of a sweep have one note
        advice = f"take the {OTHER_PROGRAMS_FORMAT} file there"
    elif unsupported_reason(recipe, OTHER_PROGRAMS_FORMAT) is None:
        advice = f"for them add {OTHER_PROGRAMS_FORMAT} to `export`"
    yield from (Note("export", text) for text in passed_over(written, family, recipe.adapt.adapters, layers, advice))


@dataclass(frozen=True)
class ExportOptions:
    """Export formats of a recipe. written: names of those written; possible: others that `export` could name; refused:
    name → why it is not possible.
    """

    written: tuple[str, ...]
    possible: tuple[str, ...]
    refused: Mapping[str, str]


def export_options(recipe: Recipe, base: Path | None) -> ExportOptions:
    """The formats that are written, that could be written, and that cannot. base: the base's folder, if it is local."""
    family, written = families()[recipe.base.type], export_formats(recipe)
    refused: dict[str, str] = {}
    for name in listed_formats():
        reason = unsupported_reason(recipe, name)
        # some formats depend on the base's files, so they can be judged only once these are here
        if not reason and base is not None:
            reason = formats()[name].unsupported_base_reason(family, base)
        if reason:
            refused[name] = reason
    possible = tuple(name for name in listed_formats() if name not in (*written, *refused))
    return ExportOptions(written, possible, refused)


def uncovered_components(recipe: Recipe, names: Iterable[str]) -> tuple[str, ...]:
    """Trained components that none of the named formats carries; they would be lost."""
    family, forms = families()[recipe.base.type], [formats()[name] for name in names]
    uncovered: list[str] = []
    for component in recipe.adapt.components:
        if not any(form.supports(family, component) for form in forms):
            uncovered.append(component)
    return tuple(uncovered)
