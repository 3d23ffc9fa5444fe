"""Differences between an adapter's provenance and what the recipe rebuilt from it finds on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dbrun.events import Note
from dbrun.plan.device import resolve_for_device, resolve_numerics
from dbrun.recipe.schema.model import Recipe
from dbrun.resolve.sources import ResolvedSources
from dbrun.stages.base import stages
from dbrun.stages.support.provenance import portable_recipe, provenance

MAX_DIFFERENCES_SHOWN = 8
"""Number of differences that are shown; the rest is counted."""
COMPARED_FIELDS = ("recipe", "numerics", "libraries")
"""Fields of a provenance document that say what an adapter was made from."""
VALUE_WIDTH = 60
"""Longest value shown, in characters."""


def provenance_notes(document: Mapping[str, Any], recipe: Recipe, resolved: ResolvedSources) -> tuple[Note, ...]:
    """Notes on the differences, a warning for each; one note that says so if there is none.

    document: an adapter's provenance; recipe, resolved: what was rebuilt from it, as it is found here.
    """
    libraries: list[str] = []
    for stage in stages().values():
        if stage.writes_formats:
            libraries += stage.libraries
    numerics = resolve_numerics(recipe.device, recipe.threads, recipe.launch)
    recipe = resolve_for_device(recipe, numerics.device)
    here = provenance(portable_recipe(recipe, resolved.sources), None, {}, numerics, libraries)
    # through JSON, as the document went: a tuple there is a list
    compared = {field: here[field] for field in COMPARED_FIELDS}
    plain = json.loads(json.dumps(compared, default=_model_as_json))
    lines: list[str] = []
    for field in COMPARED_FIELDS:
        lines += _diff_lines(field, document.get(field, {}), plain[field])
    if not lines:
        return (Note("rebuilt", "the same pictures, base, settings, device and libraries as when it was made"),)
    shown = lines[:MAX_DIFFERENCES_SHOWN]
    if len(lines) > len(shown):
        shown.append(f"and {len(lines) - len(shown)} more")
    return tuple(Note("rebuilt", text, "warning") for text in shown)


def _model_as_json(value: Any) -> Any:
    return value.model_dump(mode="json")


def _diff_lines(key: str, then: Any, now: Any) -> Iterator[str]:
    """Lines such as `numerics.device: was cuda, is cpu`. key: dotted name of the two values."""
    if isinstance(then, dict) and isinstance(now, dict):
        # fields of the recipe have the keys that a user writes, without `recipe.`
        prefix = "" if key == "recipe" else f"{key}."
        for name in sorted(then.keys() | now.keys()):
            yield from _diff_lines(f"{prefix}{name}", then.get(name), now.get(name))
    elif key.endswith("pictures") and isinstance(then, list) and isinstance(now, list):
        yield from _picture_lines(key, then, now)
    elif then != now:
        yield f"{key}: was {_value_text(then)}, is {_value_text(now)}"


def _picture_lines(key: str, then: Sequence[Any], now: Sequence[Any]) -> Iterator[str]:
    """At most one line: how many pictures are missing, with the beginnings of their digests, and how many are new."""
    # dicts cannot be in a set; their canonical JSON can
    before = {json.dumps(picture, sort_keys=True): picture for picture in then}
    after = {json.dumps(picture, sort_keys=True) for picture in now}
    gone, new = before.keys() - after, after - before.keys()
    if not gone and not new:
        return
    digests = ", ".join(sorted(before[text]["digest"][:12] for text in gone))
    listed = f" ({digests})" if digests else ""
    yield f"{key}: {len(gone)} of {len(then)} are not here{listed}, {len(new)} are new"


def _value_text(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_WIDTH else f"{text[:VALUE_WIDTH - 3]}…"
