"""What an editor needs to complete and check a recipe: the JSON Schema of the models."""

from __future__ import annotations

import json
import re
from typing import Any

from dbrun.parts import Part
from dbrun.recipe import shape
from dbrun.recipe.docs import docs

REFERENCE = {"type": "string", "pattern": r"\$\{.+\}"}
EXTENDS = {
    "description": "The recipe, or recipes, that this one builds on; paths are relative to this file.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
}
ENV = {
    "description": "The environment variables that values may name as `${env:NAME}`; never secrets, for what a recipe "
                   "says is written into its exports.",
    "type": "array", "items": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
}
PROFILES = "Parts of a recipe by name; `--profile NAME` lays one over the rest."
LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
TAUGHT = [{"required": ["subject"]}, {"required": ["subjects"]}]
"""A recipe has one of these."""
UNQUOTED = {"number": "2024", "boolean": "true"}
"""What an editor takes for no text where it stands unquoted, with an example."""
Json = dict[str, Any]


def schema_text() -> str:
    """The JSON Schema (draft 2020-12) of a recipe, equal for equal models.

    A recipe that `extends` another may leave out keys, so keys are required only where it does not.
    """
    from dbrun.recipe.model import Recipe

    made: Json = Recipe.model_json_schema(mode="serialization")
    parts = {part.__name__: part for part in _parts(shape.root())}
    definitions = made.pop("$defs")
    for name, definition in {**definitions, Recipe.__name__: made}.items():
        _describe(definition, parts[name])
    required = _required(made, definitions)
    for definition in (made, *definitions.values()):
        definition.pop("required", None)
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_relaxed(made),
             "if": {"not": {"required": ["extends"]}}, "then": {**required, "anyOf": TAUGHT},
             "$defs": _relaxed(dict(sorted(definitions.items())))}
    profile = {"type": "object", "additionalProperties": False,
               "properties": {key: {"$ref": f"#/properties/{key}"} for key in whole["properties"]}}
    profiles = {"description": PROFILES, "type": "object", "additionalProperties": profile}
    whole["properties"] = {"extends": EXTENDS, "profiles": profiles, "env": ENV, **whole["properties"]}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _parts(spot: shape.Spot) -> list[type[Part]]:
    below = [part for key in shape.keys(spot) for part in _parts(shape.below(spot, key))]
    return [*spot.parts, *below]


def _describe(definition: Json, part: type[Part]) -> None:
    texts = docs(part)
    for key, field in definition["properties"].items():
        field.pop("title", None)
        if key in texts:
            field["description"] = texts[key]


def _required(definition: Json, definitions: Json) -> Json:
    """The needed keys of a mapping and of those below it, as a schema of its own."""
    below = {}
    for key, field in definition["properties"].items():
        for option in [field, *field.get("anyOf", [])]:
            # of a union `type` chooses the member; an extending recipe may inherit it
            inner = {"required": ["type"]} if "oneOf" in option else (
                _required(definitions[_name(option)], definitions) if "$ref" in option else {})
            if "$ref" in option.get("items", {}):
                inner = {"items": _required(definitions[_name(option["items"])], definitions)}
            if inner:
                below[key] = inner
    needed: Json = {"required": definition["required"]} if definition.get("required") else {}
    return {**needed, "properties": below} if below else needed


def _name(option: Json) -> str:
    return str(option["$ref"]).rpartition("/")[2]


def _relaxed(node: Any) -> Any:
    """What the loader takes besides: a reference in place of a value, and unquoted numbers as text."""
    if isinstance(node, list):
        return [_relaxed(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    node = {LIMITS.get(key, key): inner if key in ("default", "enum", "examples") else _relaxed(inner)
            for key, inner in node.items() if key != "discriminator"}
    if "oneOf" in node:
        # without its `type` a mapping may be of several members
        node["anyOf"] = node.pop("oneOf")
    if node.get("type") == "string" and not {"const", "enum"} & node.keys():
        kinds = [kind for kind, text in UNQUOTED.items() if re.search(node.get("pattern", ""), text)]
        node["type"] = ["string", *kinds]
    if node.get("type") in ("integer", "number", "boolean") or {"enum", "pattern"} & node.keys():
        return _or_reference(node)
    if "anyOf" in node:
        node["anyOf"] = [inner for option in node["anyOf"] for inner in option.get("anyOf", [option])]
    return node


def _or_reference(node: Json) -> Json:
    outer: Json = {key: node.pop(key) for key in ("description", "default") if key in node}
    return {**outer, "anyOf": [node, REFERENCE]}
