"""What pydantic found wrong, said to a person: place, what was found, what is allowed, what was meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from dbrun.config_types import PlainScalar
from dbrun.recipe.checks import schema_info
from dbrun.recipe.checks.suggestions import join_with_or, nearest, unknown_key_message
from dbrun.recipe.text.profiles import FILE_KEYS
from dbrun.recipe.text.spans import Problem, Span
from dbrun.recipe.text.tree import (
    KeyPath,
    MappingNode,
    Node,
    ScalarNode,
    SequenceNode,
    describe_node,
    dotted_key,
    node_at,
)

VERSION = re.compile(r"dbrun/v(\d{1,9})")
MISSING_ERRORS = ("missing", "union_tag_not_found")
SCALAR_ERRORS = ("wants_int", "wants_float", "wants_bool", "wants_text", "wants_finite")
YAML_1_1_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
"""What other YAML calls true and false."""
MAX_EXACT_FLOAT = 1e15
"""Up to here every whole number is a float of its own."""


def problems_of(error: ValidationError, data: MappingNode, *, part: bool = False) -> list[Problem]:
    """One problem for every key that pydantic complains of. part: leave out what is missing."""
    said: dict[KeyPath, Problem] = {}
    for item in error.errors(include_url=False):
        if part and item["type"] in MISSING_ERRORS:
            continue
        loc = tuple(item["loc"])
        path, spot = schema_info.locate(loc, data)
        said.setdefault(path, _problem(item, path, spot, data))
    return [problem for path, problem in said.items() if not _is_consequence(path, said, data)]


def _is_consequence(path: KeyPath, said: dict[KeyPath, Problem], data: MappingNode) -> bool:
    """Whether a problem only follows from another: one inside it, or a wrong `type` beside a missing key."""
    inside = any(other != path and other[:len(path)] == path for other in said)
    return inside or (node_at(data, path) is None and (*path[:-1], "type") in said and path[-1] != "type")


def span_of(key: str, data: MappingNode) -> Span:
    """Where the value of a dotted key stands, or else the nearest key above it."""
    path = tuple(int(step) if step.isdigit() else step for step in key.split("."))
    node = node_at(data, path)
    return node.span if node is not None else _key_span(path[:-1], data)


def _key_span(path: KeyPath, data: MappingNode) -> Span:
    """Where the key of a path stands, or else the nearest key above it."""
    above = node_at(data, path[:-1]) if path else None
    if isinstance(above, MappingNode) and path[-1] in above.key_spans:
        return above.key_spans[str(path[-1])]
    if isinstance(above, SequenceNode) and (item := node_at(data, path)) is not None:
        return item.span
    return _key_span(path[:-1], data) if path else data.span


def _mapping_span(path: KeyPath, data: MappingNode) -> Span:
    """Where the key of a mapping stands; for the whole recipe its first line, of which there is nothing to show."""
    return _key_span(path, data) if path else replace(data.span, text="")


def _problem(item: Any, path: KeyPath, spot: schema_info.SchemaNode, data: MappingNode) -> Problem:
    key, node = dotted_key(path), node_at(data, path)
    if item["type"] == "extra_forbidden":
        level = schema_info.locate(tuple(item["loc"])[:-1], data)[1]
        place = _key_span(path, data)
        if place.file is None and key in ("profile", "profiles"):
            return Problem(place, key, "unknown key; a profile is named by an option", "--profile NAME")
        here = schema_info.allowed_keys(level) + (FILE_KEYS if len(path) == 1 and place.file is not None else ())
        return Problem(place, key, unknown_key_message(key, here, schema_info.all_keys()))
    if item["type"] == "missing":
        return Problem(_mapping_span(path[:-1], data), key, _missing_message(path, spot))
    if item["type"] in ("union_tag_not_found", "union_tag_invalid") and isinstance(node, MappingNode):
        return _tag_problem(path, spot, data)
    if node is None:
        return Problem(_key_span(path, data), key, str(item["msg"]))
    message = f"found {describe_node(node)}, allowed: {_allowed_text(item, node, spot)}"
    if path == ("schema",) and isinstance(node, ScalarNode) and VERSION.fullmatch(node.value):
        return Problem(node.span, key,
                       *_version_message(message, node.value, schema_info.literal_values(spot.annotation)))
    if isinstance(node, ScalarNode) and (meant := _suggest_value(item["type"], node.value)):
        return Problem(node.span, key, message, f"write {meant}")
    near = nearest(node.value, _allowed_values(item, spot)) if isinstance(node, ScalarNode) and node.value else None
    # the right word in the wrong form: a list is wanted
    meant = f"[{near}]" if isinstance(node, ScalarNode) and near == node.value else f"'{near}'"
    return Problem(node.span, key, f"{message}; did you mean {meant}?" if near else message)


def _suggest_value(kind: str, value: str) -> str | None:
    """A value as recipes write it, where another way of writing the same is clear; None where it is not."""
    if not isinstance(value, PlainScalar):
        return None
    if kind == "wants_bool":
        return YAML_1_1_BOOLEANS.get(value.lower())
    try:
        number = float(value) if kind == "wants_int" else float("nan")
    except ValueError:
        return None
    return str(int(number)) if abs(number) < MAX_EXACT_FLOAT and number == int(number) else None


def _version_message(message: str, schema: str, known: Sequence[str]) -> tuple[str, str]:
    """What to say, and to do, about a version of the language that is not known here."""
    if is_newer(schema, known):
        return f"{message}; this dbrun is older than the recipe", "pip install --upgrade dbrun"
    return f"{message}; there is only {join_with_or(known)}", f"write `schema: {known[-1]}`"


def is_newer(schema: str, known: Sequence[str]) -> bool:
    """Whether the recipe is written in a version of the language that comes after those known here."""
    written, *others = (VERSION.fullmatch(text) for text in (schema, *known))
    return written is not None and all(other is not None and int(written[1]) > int(other[1]) for other in others)


def _allowed_text(item: Any, node: Node, spot: schema_info.SchemaNode) -> str:
    words = schema_info.describe_type(spot.annotation)
    custom = item["type"].startswith("wants_") and item["type"] not in SCALAR_ERRORS
    if custom and isinstance(node, ScalarNode):
        return str(item["msg"]).removeprefix("expected ")
    if item["type"] in ("too_short", "too_long"):
        short = item["type"] == "too_short"
        return f"{words} with {item['ctx']['min_length' if short else 'max_length']} or {'more' if short else 'fewer'}"
    if isinstance(node, ScalarNode) and not isinstance(node.value, PlainScalar) and item["type"] in SCALAR_ERRORS[:3]:
        return f"{words}, without quotes"
    return words


def _allowed_values(item: Any, spot: schema_info.SchemaNode) -> tuple[str, ...]:
    """The values that are allowed where a problem is, as far as they can be named."""
    named = item.get("ctx", {}).values() if item["type"].startswith("wants_") else ()
    offered = [word for text in named if isinstance(text, str) for word in text.split(", ")]
    types = [f"{{type: {name}}}" for part in spot.parts if (name := schema_info.type_tag(part))]
    return (*schema_info.literal_values(spot.annotation), *offered, *types)


def _missing_message(path: KeyPath, spot: schema_info.SchemaNode) -> str:
    from dbrun.recipe.checks.field_docs import field_docs

    level = schema_info.root()
    for step in path[:-1]:
        level = schema_info.schema_child(level, step)
    texts = [text for part in level.parts if (text := field_docs(part).get(str(path[-1])))]
    return f"missing, expected {schema_info.describe_type(spot.annotation)}: {' '.join(texts[:1]).rstrip('.')}"


def _tag_problem(path: KeyPath, spot: schema_info.SchemaNode, data: MappingNode) -> Problem:
    tags = [t for part in spot.parts if (t := schema_info.type_tag(part))]
    node = node_at(data, (*path, "type"))
    key = dotted_key((*path, "type"))
    if node is None:
        return Problem(_key_span(path, data), key, f"missing, allowed: {join_with_or(tags)}")
    near = nearest(node.value, tags) if isinstance(node, ScalarNode) else None
    hint = f"; did you mean '{near}'?" if near else ""
    return Problem(node.span, key, f"found {describe_node(node)}, allowed: {join_with_or(tags)}{hint}")
