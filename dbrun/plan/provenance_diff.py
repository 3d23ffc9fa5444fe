"""Is what a rebuilt recipe finds here what an adapter was made from?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dbrun.events import Note
from dbrun.plan.device import numerics
from dbrun.recipe.schema.model import Recipe
from dbrun.resolve.sources import Located
from dbrun.stages.base import stages
from dbrun.stages.support.provenance import portable, provenance

SHOWN = 8
"""Differences that are told; more are counted."""


def differences(document: Mapping[str, Any], recipe: Recipe, located: Located) -> tuple[Note, ...]:
    """What is other here than in an adapter's provenance, one a note; one note that says so where nothing is."""
    libraries = stages()["export"].libraries
    here = provenance(portable(recipe, located.sources), None, {}, numerics(recipe.device, recipe.threads), libraries)
    plain = json.loads(json.dumps({key: here[key] for key in ("recipe", "numerics", "libraries")}, default=_plain))
    found = [line for part in plain for line in _lines(part, document.get(part, {}), plain[part])]
    if not found:
        return (Note("rebuilt", "all that made it is here: pictures, base, settings, device, libraries"),)
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return tuple(Note("rebuilt", text, "warning") for text in (*found[:SHOWN], *more))


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json")


def _lines(key: str, then: Any, now: Any) -> Iterator[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        for name in sorted(then.keys() | now.keys()):
            yield from _lines(f"{key}.{name}" if key != "recipe" else name, then.get(name), now.get(name))
    elif key.endswith("pictures") and isinstance(then, list) and isinstance(now, list):
        yield from _pictures(key, then, now)
    elif then != now:
        yield f"{key}: was {_word(then)}, is {_word(now)}"


def _pictures(key: str, then: Sequence[Any], now: Sequence[Any]) -> Iterator[str]:
    was, now_are = ({json.dumps(one, sort_keys=True): one for one in some} for some in (then, now))
    gone, new = was.keys() - now_are.keys(), now_are.keys() - was.keys()
    if gone or new:
        names = ", ".join(sorted(was[one]["digest"][:12] for one in gone))
        yield f"{key}: {len(gone)} of {len(then)} are not here{f' ({names})' if names else ''}, {len(new)} are others"


def _word(value: Any) -> str:
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "nothing" if value is None else said
    return text if len(text) <= 60 else f"{text[:57]}…"
