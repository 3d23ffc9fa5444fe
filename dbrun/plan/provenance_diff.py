"""Is what a rebuilt recipe finds here what an adapter was made from?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dbrun.events import Note
from dbrun.plan.device import resolve_numerics
from dbrun.recipe.schema.model import Recipe
from dbrun.resolve.sources import ResolvedSources
from dbrun.stages.base import stages
from dbrun.stages.support.provenance import portable_recipe, provenance

MAX_DIFFERENCES_SHOWN = 8
"""Differences that are told; more are counted."""


def provenance_notes(document: Mapping[str, Any], recipe: Recipe, resolved: ResolvedSources) -> tuple[Note, ...]:
    """What is other here than in an adapter's provenance, one a note; one note that says so where nothing is."""
    libraries = [library for stage in stages().values() if stage.writes_formats for library in stage.libraries]
    here = provenance(portable_recipe(recipe, resolved.sources), None, {},
                      resolve_numerics(recipe.device, recipe.threads), libraries)
    plain = json.loads(json.dumps({key: here[key] for key in ("recipe", "numerics", "libraries")},
                                  default=_model_as_json))
    found = [line for part in plain for line in _diff_lines(part, document.get(part, {}), plain[part])]
    if not found:
        return (Note("rebuilt", "all that made it is here: pictures, base, settings, device, libraries"),)
    more = [f"and {len(found) - MAX_DIFFERENCES_SHOWN} more"] if len(found) > MAX_DIFFERENCES_SHOWN else []
    return tuple(Note("rebuilt", text, "warning") for text in (*found[:MAX_DIFFERENCES_SHOWN], *more))


def _model_as_json(value: Any) -> Any:
    return value.model_dump(mode="json")


def _diff_lines(key: str, then: Any, now: Any) -> Iterator[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        for name in sorted(then.keys() | now.keys()):
            yield from _diff_lines(f"{key}.{name}" if key != "recipe" else name, then.get(name), now.get(name))
    elif key.endswith("pictures") and isinstance(then, list) and isinstance(now, list):
        yield from _picture_lines(key, then, now)
    elif then != now:
        yield f"{key}: was {_value_text(then)}, is {_value_text(now)}"


def _picture_lines(key: str, then: Sequence[Any], now: Sequence[Any]) -> Iterator[str]:
    was, now_are = ({json.dumps(one, sort_keys=True): one for one in some} for some in (then, now))
    gone, new = was.keys() - now_are.keys(), now_are.keys() - was.keys()
    if gone or new:
        names = ", ".join(sorted(was[one]["digest"][:12] for one in gone))
        yield f"{key}: {len(gone)} of {len(then)} are not here{f' ({names})' if names else ''}, {len(new)} are others"


def _value_text(value: Any) -> str:
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "nothing" if value is None else said
    return text if len(text) <= 60 else f"{text[:57]}…"
