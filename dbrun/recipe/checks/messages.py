"""Messages for pydantic's validation errors: where the value is, what was found, what is allowed, what was meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from dbrun.config_types import PlainScalar
from dbrun.recipe.checks import schema_info
from dbrun.recipe.checks.suggestions import MAX_SUGGESTIONS, join_with_or, nearest_value, unknown_key_message
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
QUOTES_MATTER = ("wants_int", "wants_float", "wants_bool")
SCALAR_ERRORS = (*QUOTES_MATTER, "wants_text", "wants_finite")
"""Errors of the scalar types in config_types, whose text does not name the field's limits."""
YAML_1_1_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
"""Words that YAML 1.1 reads as true and false → how a recipe writes it."""
MAX_EXACT_FLOAT = 1e15
"""Below this, a float holds every whole number exactly."""


def problems_of(error: ValidationError, data: MappingNode, *, part: bool = False) -> list[Problem]:
    """One problem per wrong key of a validation error. part: leave out missing keys, since only a part was read."""
    problems: dict[KeyPath, Problem] = {}
    for item in error.errors(include_url=False):
        if part and item["type"] in MISSING_ERRORS:
            continue
        path, spot = schema_info.locate(tuple(item["loc"]), data)
        # a union reports one error for each member; the first is enough
        if path not in problems:
            problems[path] = _problem(item, path, spot, data, suggest=len(problems) < MAX_SUGGESTIONS)
    with_inner: set[tuple[str | int, ...]] = set()
    for path in problems:
        with_inner.update(path[:length] for length in range(len(path)))
    return [problem for path, problem in problems.items()
            if path not in with_inner and not _follows_from_type(path, problems, data)]


def _follows_from_type(path: KeyPath, problems: dict[KeyPath, Problem], data: MappingNode) -> bool:
    """Whether a missing key only follows from a wrong `type` beside it."""
    # which keys are missing depends on `type`, so they are unknown while that is wrong
    missing = node_at(data, path) is None and path[-1] != "type"
    return missing and (*path[:-1], "type") in problems


def span_of(key: str, data: MappingNode) -> Span:
    """Span of the value of a dotted key, or else of the nearest key above it."""
    path = tuple(int(step) if step.isdigit() else step for step in key.split("."))
    node = node_at(data, path)
    if node is not None:
        return node.span
    return _key_span(path[:-1], data)


def _key_span(path: KeyPath, data: MappingNode) -> Span:
    """Span of the key of a path (of the item, in a list), or else of the nearest key above it."""
    if not path:
        return data.span
    above = node_at(data, path[:-1])
    if isinstance(above, MappingNode) and path[-1] in above.key_spans:
        return above.key_spans[str(path[-1])]
    item = node_at(data, path)
    if isinstance(above, SequenceNode) and item is not None:
        return item.span
    return _key_span(path[:-1], data)


def _mapping_span(path: KeyPath, data: MappingNode) -> Span:
    """Span of the key of a mapping; for the whole recipe its first line, without an excerpt."""
    if path:
        return _key_span(path, data)
    # what is missing at the top is in no line, so a quoted line would mislead
    return replace(data.span, text="")


def _problem(item: Any, path: KeyPath, spot: schema_info.SchemaNode, data: MappingNode, *, suggest: bool) -> Problem:
    """The problem for one of pydantic's errors. spot: what the schema allows at the path.

    suggest: whether to look for the word that was meant.
    """
    key, node, kind = dotted_key(path), node_at(data, path), item["type"]
    if kind == "extra_forbidden" and not suggest:
        return Problem(_key_span(path, data), key, "unknown key")
    if kind == "extra_forbidden":
        return _unknown_key_problem(item, path, data)
    if kind == "missing":
        return Problem(_mapping_span(path[:-1], data), key, _missing_message(path, spot))
    if kind in ("union_tag_not_found", "union_tag_invalid") and isinstance(node, MappingNode):
        return _tag_problem(path, spot, data)
    if node is None:
        return Problem(_key_span(path, data), key, str(item["msg"]))
    message = f"found {describe_node(node)}, allowed: {_allowed_text(item, node, spot)}"
    if not isinstance(node, ScalarNode):
        return Problem(node.span, key, message)
    if path == ("schema",) and VERSION.fullmatch(node.value):
        message, fix = _version_message(message, node.value, schema_info.literal_values(spot.annotation))
        return Problem(node.span, key, message, fix)
    meant = _suggest_value(kind, node.value)
    if meant:
        return Problem(node.span, key, message, f"write {meant}")
    near = None
    if node.value and suggest:
        near = nearest_value(node.value, _allowed_values(item, spot))
    if near is None:
        return Problem(node.span, key, message)
    # the right word in the wrong form: a list is expected
    meant = f"[{near}]" if near == node.value else f"'{near}'"
    return Problem(node.span, key, f"{message}; did you mean {meant}?")


def _unknown_key_problem(item: Any, path: KeyPath, data: MappingNode) -> Problem:
    key, span = dotted_key(path), _key_span(path, data)
    on_command_line = span.file is None
    if on_command_line and key in ("profile", "profiles"):
        return Problem(span, key, "unknown key; a profile is named by an option", "--profile NAME")
    _, level = schema_info.locate(tuple(item["loc"])[:-1], data)
    here = schema_info.allowed_keys(level)
    # taken out of a file before validation, so the schema does not know them
    if len(path) == 1 and not on_command_line:
        here += FILE_KEYS
    return Problem(span, key, unknown_key_message(key, here, schema_info.all_keys(), on_command_line))


def _suggest_value(kind: str, value: str) -> str | None:
    """The value as a recipe writes it, where it is another spelling of an allowed one: `yes`, `1e3`; else None.

    kind: type of pydantic's error.
    """
    if not isinstance(value, PlainScalar):
        return None
    if kind == "wants_bool":
        return YAML_1_1_BOOLEANS.get(value.lower())
    if kind != "wants_int":
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    # the comparison is false for nan
    if abs(number) < MAX_EXACT_FLOAT and number == int(number):
        return str(int(number))
    return None


def _version_message(message: str, schema: str, known: Sequence[str]) -> tuple[str, str]:
    """(message, fix) for an unknown version of the recipe language."""
    if is_newer(schema, known):
        return f"{message}; this dbrun is older than the recipe", "pip install --upgrade dbrun"
    return message, f"write `schema: {known[-1]}`"


def is_newer(schema: str, known: Sequence[str]) -> bool:
    """Whether a version of the recipe language, such as "dbrun/v2", is newer than all known ones."""
    version = _version_number(schema)
    if version is None:
        return False
    for other in known:
        known_version = _version_number(other)
        if known_version is None or version <= known_version:
            return False
    return True


def _version_number(schema: str) -> int | None:
    match = VERSION.fullmatch(schema)
    return int(match[1]) if match else None


def _allowed_text(item: Any, node: Node, spot: schema_info.SchemaNode) -> str:
    """Description of the allowed values, for the end of "found …, allowed: …"."""
    kind, words = item["type"], schema_info.describe_type(spot.annotation)
    # a validator of a field knows more than its type: "expected words, not only blanks"
    if kind.startswith("wants_") and kind not in SCALAR_ERRORS and isinstance(node, ScalarNode):
        return str(item["msg"]).removeprefix("expected ")
    if kind == "too_short":
        return f"{words}, at least {item['ctx']['min_length']}"
    if kind == "too_long":
        return f"{words}, at most {item['ctx']['max_length']}"
    # "3" in quotes is text, so a number was probably meant
    if kind in QUOTES_MATTER and isinstance(node, ScalarNode) and not isinstance(node.value, PlainScalar):
        return f"{words}, without quotes"
    return words


def _allowed_values(item: Any, spot: schema_info.SchemaNode) -> tuple[str, ...]:
    """Allowed values that can be listed: words of a Literal, names in the error's context, mappings by `type`."""
    offered: list[str] = []
    if item["type"].startswith("wants_"):
        for text in item.get("ctx", {}).values():
            if isinstance(text, str):
                offered += text.split(", ")
    types = [f"{{type: {tag}}}" for tag in _type_tags(spot)]
    return (*schema_info.literal_values(spot.annotation), *offered, *types)


def _missing_message(path: KeyPath, spot: schema_info.SchemaNode) -> str:
    # imported here: it reads the sources of the models
    from dbrun.recipe.checks.field_docs import field_docs

    level = schema_info.root()
    for step in path[:-1]:
        level = schema_info.schema_child(level, step)
    explanation = ""
    for part in level.parts:
        explanation = explanation or field_docs(part).get(str(path[-1]), "")
    return f"missing, expected {schema_info.describe_type(spot.annotation)}: {explanation.rstrip('.')}"


def _tag_problem(path: KeyPath, spot: schema_info.SchemaNode, data: MappingNode) -> Problem:
    """A missing or unknown `type` of a mapping."""
    tags = _type_tags(spot)
    key, node = dotted_key((*path, "type")), node_at(data, (*path, "type"))
    if node is None:
        return Problem(_key_span(path, data), key, f"missing, allowed: {join_with_or(tags)}")
    message = f"found {describe_node(node)}, allowed: {join_with_or(tags)}"
    near = nearest_value(node.value, tags) if isinstance(node, ScalarNode) else None
    if near:
        message += f"; did you mean '{near}'?"
    return Problem(node.span, key, message)


def _type_tags(spot: schema_info.SchemaNode) -> list[str]:
    tags = [schema_info.type_tag(part) for part in spot.parts]
    return [tag for tag in tags if tag]
