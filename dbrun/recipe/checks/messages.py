"""What pydantic found wrong, said to a person: place, what was found, what is allowed, what was meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from dbrun.config_types import Plain
from dbrun.recipe.checks import schema_info
from dbrun.recipe.checks.suggestions import nearest, one_of, unknown_key
from dbrun.recipe.text.profiles import KEYS
from dbrun.recipe.text.spans import Place, Problem
from dbrun.recipe.text.tree import Items, Node, Path, Scalar, Table, at, dotted, found

VERSION = re.compile(r"dbrun/v(\d{1,9})")
ABSENT = ("missing", "union_tag_not_found")
OWN = ("wants_int", "wants_float", "wants_bool", "wants_text", "wants_finite")
FLAGS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
"""What other YAML calls true and false."""
LARGEST = 1e15
"""Up to here every whole number is a float of its own."""


def translate(error: ValidationError, data: Table, *, part: bool = False) -> list[Problem]:
    """One problem for every key that pydantic complains of. part: leave out what is missing."""
    said: dict[Path, Problem] = {}
    for item in error.errors(include_url=False):
        if part and item["type"] in ABSENT:
            continue
        loc = tuple(item["loc"])
        path, spot = schema_info.locate(loc, data)
        said.setdefault(path, _problem(item, path, spot, data))
    return [problem for path, problem in said.items() if not _follows(path, said, data)]


def _follows(path: Path, said: dict[Path, Problem], data: Table) -> bool:
    """Whether a problem only follows from another: one inside it, or a wrong `type` beside a missing key."""
    inside = any(other != path and other[:len(path)] == path for other in said)
    return inside or (at(data, path) is None and (*path[:-1], "type") in said and path[-1] != "type")


def place_of(key: str, data: Table) -> Place:
    """Where the value of a dotted key stands, or else the nearest key above it."""
    path = tuple(int(step) if step.isdigit() else step for step in key.split("."))
    node = at(data, path)
    return node.place if node is not None else _key_place(path[:-1], data)


def _key_place(path: Path, data: Table) -> Place:
    """Where the key of a path stands, or else the nearest key above it."""
    above = at(data, path[:-1]) if path else None
    if isinstance(above, Table) and path[-1] in above.keys:
        return above.keys[str(path[-1])]
    if isinstance(above, Items) and (item := at(data, path)) is not None:
        return item.place
    return _key_place(path[:-1], data) if path else data.place


def _mapping_place(path: Path, data: Table) -> Place:
    """Where the key of a mapping stands; for the whole recipe its first line, of which there is nothing to show."""
    return _key_place(path, data) if path else replace(data.place, text="")


def _problem(item: Any, path: Path, spot: schema_info.Spot, data: Table) -> Problem:
    key, node = dotted(path), at(data, path)
    if item["type"] == "extra_forbidden":
        level = schema_info.locate(tuple(item["loc"])[:-1], data)[1]
        place = _key_place(path, data)
        if place.file is None and key in ("profile", "profiles"):
            return Problem(place, key, "unknown key; a profile is named by an option", "--profile NAME")
        here = schema_info.keys(level) + (KEYS if len(path) == 1 and place.file is not None else ())
        return Problem(place, key, unknown_key(key, here, schema_info.everywhere()))
    if item["type"] == "missing":
        return Problem(_mapping_place(path[:-1], data), key, _missing(path, spot))
    if item["type"] in ("union_tag_not_found", "union_tag_invalid") and isinstance(node, Table):
        return _tag(path, spot, data)
    if node is None:
        return Problem(_key_place(path, data), key, str(item["msg"]))
    message = f"found {found(node)}, allowed: {_allowed(item, node, spot)}"
    if path == ("schema",) and isinstance(node, Scalar) and VERSION.fullmatch(node.value):
        return Problem(node.place, key, *_other_version(message, node.value, schema_info.choices(spot.annotation)))
    if isinstance(node, Scalar) and (meant := _rewritten(item["type"], node.value)):
        return Problem(node.place, key, message, f"write {meant}")
    near = nearest(node.value, _options(item, spot)) if isinstance(node, Scalar) and node.value else None
    # the right word in the wrong form: a list is wanted
    meant = f"[{near}]" if isinstance(node, Scalar) and near == node.value else f"'{near}'"
    return Problem(node.place, key, f"{message}; did you mean {meant}?" if near else message)


def _rewritten(kind: str, value: str) -> str | None:
    """A value as recipes write it, where another way of writing the same is clear; None where it is not."""
    if not isinstance(value, Plain):
        return None
    if kind == "wants_bool":
        return FLAGS.get(value.lower())
    try:
        number = float(value) if kind == "wants_int" else float("nan")
    except ValueError:
        return None
    return str(int(number)) if abs(number) < LARGEST and number == int(number) else None


def _other_version(message: str, schema: str, known: Sequence[str]) -> tuple[str, str]:
    """What to say, and to do, about a version of the language that is not known here."""
    if newer(schema, known):
        return f"{message}; this dbrun is older than the recipe", "pip install --upgrade dbrun"
    return f"{message}; there is only {one_of(known)}", f"write `schema: {known[-1]}`"


def newer(schema: str, known: Sequence[str]) -> bool:
    """Whether the recipe is written in a version of the language that comes after those known here."""
    written, *others = (VERSION.fullmatch(text) for text in (schema, *known))
    return written is not None and all(other is not None and int(written[1]) > int(other[1]) for other in others)


def _allowed(item: Any, node: Node, spot: schema_info.Spot) -> str:
    words = schema_info.allowed(spot.annotation)
    custom = item["type"].startswith("wants_") and item["type"] not in OWN
    if custom and isinstance(node, Scalar):
        return str(item["msg"]).removeprefix("expected ")
    if item["type"] in ("too_short", "too_long"):
        short = item["type"] == "too_short"
        return f"{words} with {item['ctx']['min_length' if short else 'max_length']} or {'more' if short else 'fewer'}"
    if isinstance(node, Scalar) and not isinstance(node.value, Plain) and item["type"] in OWN[:3]:
        return f"{words}, without quotes"
    return words


def _options(item: Any, spot: schema_info.Spot) -> tuple[str, ...]:
    """The values that are allowed where a problem is, as far as they can be named."""
    named = item.get("ctx", {}).values() if item["type"].startswith("wants_") else ()
    offered = [word for text in named if isinstance(text, str) for word in text.split(", ")]
    types = [f"{{type: {name}}}" for part in spot.parts if (name := schema_info.tag(part))]
    return (*schema_info.choices(spot.annotation), *offered, *types)


def _missing(path: Path, spot: schema_info.Spot) -> str:
    from dbrun.recipe.checks.field_docs import docs

    level = schema_info.root()
    for step in path[:-1]:
        level = schema_info.below(level, step)
    texts = [text for part in level.parts if (text := docs(part).get(str(path[-1])))]
    return f"missing, expected {schema_info.allowed(spot.annotation)}: {' '.join(texts[:1]).rstrip('.')}"


def _tag(path: Path, spot: schema_info.Spot, data: Table) -> Problem:
    tags = [t for part in spot.parts if (t := schema_info.tag(part))]
    node = at(data, (*path, "type"))
    key = dotted((*path, "type"))
    if node is None:
        return Problem(_key_place(path, data), key, f"missing, allowed: {one_of(tags)}")
    near = nearest(node.value, tags) if isinstance(node, Scalar) else None
    hint = f"; did you mean '{near}'?" if near else ""
    return Problem(node.place, key, f"found {found(node)}, allowed: {one_of(tags)}{hint}")
