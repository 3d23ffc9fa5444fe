"""What an editor needs to complete and check a recipe: the JSON Schema of the models."""

from __future__ import annotations

import json
import re
from typing import Any

from dbrun.config_types import Part
from dbrun.recipe.checks import schema_info
from dbrun.recipe.checks.field_docs import docs

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
    from dbrun.recipe.schema.model import Recipe

    made: Json = Recipe.model_json_schema(mode="serialization")
    parts = {part.__name__: part for part in _parts(schema_info.root())}
    definitions = made.pop("$defs")
    for name, definition in {**definitions, Recipe.__name__: made}.items():
        _describe(definition, parts[name])
    required = _required(made, definitions)
    for definition in (made, *definitions.values()):
        definition.pop("required", None)
    _separate(made, definitions, parts)
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_relaxed(made),
             "if": {"not": {"required": ["extends"]}}, "then": {**required, "anyOf": TAUGHT},
             "$defs": _relaxed(dict(sorted(definitions.items())))}
    profile = {"type": "object", "additionalProperties": False,
               "properties": {key: {"$ref": f"#/properties/{key}"} for key in whole["properties"]}}
    profiles = {"description": PROFILES, "type": "object", "additionalProperties": profile}
    whole["properties"] = {"extends": EXTENDS, "profiles": profiles, "env": ENV, **whole["properties"]}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _parts(spot: schema_info.Spot) -> list[type[Part]]:
    below = [part for key in schema_info.keys(spot) for part in _parts(schema_info.below(spot, key))]
    return [*spot.parts, *below]


def _describe(definition: Json, part: type[Part]) -> None:
    texts = docs(part)
    for key, field in definition["properties"].items():
        field.pop("title", None)
        if key in texts:
            field["description"] = texts[key]


def _separate(made: Json, definitions: Json, parts: dict[str, type[Part]]) -> None:
    """Make the members of each union exclude each other: each needs its `type`, and one more has none.

    That one takes what an extending recipe or a profile says of a part whose `type` is written elsewhere.
    """
    for field in [field for one in [made, *definitions.values()] for field in one["properties"].values()]:
        for union in [option for option in [field, *field.get("anyOf", [])] if "oneOf" in option]:
            names = [_name(option) for option in union["oneOf"]]
            for name in names:
                definitions[name]["required"] = ["type"]
            untyped = f"{_common([parts[name] for name in names]).__name__}WithoutType"
            definitions[untyped] = _without_type({name: definitions[name] for name in names})
            union["oneOf"].append({"$ref": f"#/$defs/{untyped}"})


def _common(members: list[type[Part]]) -> type[Part]:
    """The nearest part that all of a union's members are built on."""
    return next(base for base in members[0].__mro__ if all(issubclass(member, base) for member in members))


def _without_type(members: Json) -> Json:
    """What a mapping may hold that is one of these members but does not say which."""
    spots: dict[str, list[Json]] = {}
    texts: dict[str, str] = {}
    for name, member in members.items():
        for key, field in member["properties"].items():
            if key != "type" and field not in [_at(members, spot) for spot in spots.get(key, [])]:
                spots.setdefault(key, []).append({"$ref": f"#/$defs/{name}/properties/{key}"})
                texts.setdefault(key, field["description"])
    properties = {key: {"description": texts[key], **(refs[0] if len(refs) == 1 else {"anyOf": refs})}
                  for key, refs in spots.items()}
    # listed, so that editors offer it; whatever it says, another member is meant
    properties["type"] = {"description": next(iter(members.values()))["properties"]["type"]["description"], "not": {}}
    return {"additionalProperties": False, "description": "A part whose `type` an extended recipe says.",
            "properties": properties, "title": "mapping with a `type`", "type": "object"}


def _at(members: Json, spot: Json) -> Json:
    name, _, key = str(spot["$ref"]).removeprefix("#/$defs/").partition("/properties/")
    found: Json = members[name]["properties"][key]
    return found


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
    if node.get("type") == "string" and not {"const", "enum"} & node.keys():
        kinds = [kind for kind, text in UNQUOTED.items() if re.search(node.get("pattern", ""), text)]
        node["type"] = ["string", *kinds]
    if node.get("type") in ("integer", "number", "boolean") or {"enum", "pattern"} & node.keys():
        return _or_reference(node)
    if "anyOf" in node:
        node["anyOf"] = [inner for option in node["anyOf"] for inner in option.get("anyOf", [option])]
        if unions := [option["oneOf"] for option in node["anyOf"] if "oneOf" in option]:
            *named, untyped = unions[0]
            node["oneOf"] = [*named, *(option for option in node.pop("anyOf") if "oneOf" not in option), untyped]
    return node


def _or_reference(node: Json) -> Json:
    outer: Json = {key: node.pop(key) for key in ("description", "default") if key in node}
    return {**outer, "anyOf": [node, REFERENCE]}
