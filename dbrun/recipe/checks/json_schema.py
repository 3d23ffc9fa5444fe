"""What an editor needs to complete and check a recipe: the JSON Schema of the models."""

from __future__ import annotations

import json
import re
from typing import Any

from dbrun.config_types import Part
from dbrun.recipe.checks import schema_info
from dbrun.recipe.checks.field_docs import field_docs

REFERENCE = {"type": "string", "pattern": r"\$\{.+\}"}
EXTENDS_SCHEMA = {
    "description": "The recipe, or recipes, that this one builds on; paths are relative to this file.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
}
ENV_SCHEMA = {
    "description": "The environment variables that values may name as `${env:NAME}`; never secrets, for what a recipe "
                   "says is written into its exports.",
    "type": "array", "items": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
}
PROFILES_DESCRIPTION = "Parts of a recipe by name; `--profile NAME` lays one over the rest."
LIMIT_KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
SUBJECT_REQUIRED = [{"required": ["subject"]}, {"required": ["subjects"]}]
"""A recipe has one of these."""
UNQUOTED_EXAMPLES = {"number": "2024", "boolean": "true"}
"""What an editor takes for no text where it stands unquoted, with an example."""
Json = dict[str, Any]


def schema_text() -> str:
    """The JSON Schema (draft 2020-12) of a recipe, equal for equal models.

    A recipe that `extends` another may leave out keys, so keys are required only where it does not.
    """
    from dbrun.recipe.schema.model import Recipe

    made: Json = Recipe.model_json_schema(mode="serialization")
    parts = _parts_by_name()
    definitions = made.pop("$defs")
    for name, definition in {**definitions, Recipe.__name__: made}.items():
        _describe(definition, parts[name])
    required = _required_schema(made, definitions)
    for definition in (made, *definitions.values()):
        definition.pop("required", None)
    _make_exclusive(made, definitions, parts)
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_relax(made),
             "if": {"not": {"required": ["extends"]}}, "then": {**required, "anyOf": SUBJECT_REQUIRED},
             "$defs": _relax(dict(sorted(definitions.items())))}
    profile = {"type": "object", "additionalProperties": False,
               "properties": {key: {"$ref": f"#/properties/{key}"} for key in whole["properties"]}}
    profiles = {"description": PROFILES_DESCRIPTION, "type": "object", "additionalProperties": profile}
    whole["properties"] = {"extends": EXTENDS_SCHEMA, "profiles": profiles, "env": ENV_SCHEMA, **whole["properties"]}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _parts_by_name() -> dict[str, type[Part]]:
    """Every part of a recipe by its class's name, which is its definition's."""
    parts: dict[str, type[Part]] = {}
    for part in _all_parts(schema_info.root()):
        other = parts.setdefault(part.__name__, part)
        if other is not part:
            raise TypeError(f"{other.__module__} and {part.__module__} both have a class {part.__name__}, and the "
                            "schema can define one of that name")
    return parts


def _all_parts(spot: schema_info.SchemaNode) -> list[type[Part]]:
    below = [part for key in schema_info.allowed_keys(spot) for part in _all_parts(schema_info.schema_child(spot, key))]
    return [*spot.parts, *below]


def _describe(definition: Json, part: type[Part]) -> None:
    texts = field_docs(part)
    for key, field in definition["properties"].items():
        field.pop("title", None)
        if key in texts:
            field["description"] = texts[key]


def _make_exclusive(made: Json, definitions: Json, parts: dict[str, type[Part]]) -> None:
    """Make the members of each union exclude each other: each needs its `type`, and one more has none.

    That one takes what an extending recipe or a profile says of a part whose `type` is written elsewhere.
    """
    for field in [field for one in [made, *definitions.values()] for field in one["properties"].values()]:
        for union in [option for option in [field, *field.get("anyOf", [])] if "oneOf" in option]:
            names = [_definition_name(option) for option in union["oneOf"]]
            for name in names:
                definitions[name]["required"] = ["type"]
            untyped = f"{_common_base([parts[name] for name in names]).__name__}WithoutType"
            definitions[untyped] = _untyped_member({name: definitions[name] for name in names})
            union["oneOf"].append({"$ref": f"#/$defs/{untyped}"})


def _common_base(members: list[type[Part]]) -> type[Part]:
    """The nearest part that all of a union's members are built on."""
    return next(base for base in members[0].__mro__ if all(issubclass(member, base) for member in members))


def _untyped_member(members: Json) -> Json:
    """What a mapping may hold that is one of these members but does not say which."""
    spots: dict[str, list[Json]] = {}
    texts: dict[str, str] = {}
    for name, member in members.items():
        for key, field in member["properties"].items():
            if key != "type" and field not in [_resolve_ref(members, spot) for spot in spots.get(key, [])]:
                spots.setdefault(key, []).append({"$ref": f"#/$defs/{name}/properties/{key}"})
                texts.setdefault(key, field["description"])
    properties = {key: {"description": texts[key], **(refs[0] if len(refs) == 1 else {"anyOf": refs})}
                  for key, refs in spots.items()}
    # listed, so that editors offer it; whatever it says, another member is meant
    properties["type"] = {"description": next(iter(members.values()))["properties"]["type"]["description"], "not": {}}
    return {"additionalProperties": False, "description": "A part whose `type` an extended recipe says.",
            "properties": properties, "title": "mapping with a `type`", "type": "object"}


def _resolve_ref(members: Json, spot: Json) -> Json:
    name, _, key = str(spot["$ref"]).removeprefix("#/$defs/").partition("/properties/")
    found: Json = members[name]["properties"][key]
    return found


def _required_schema(definition: Json, definitions: Json) -> Json:
    """The needed keys of a mapping and of those below it, as a schema of its own."""
    below = {}
    for key, field in definition["properties"].items():
        for option in [field, *field.get("anyOf", [])]:
            # of a union `type` chooses the member; an extending recipe may inherit it
            inner = {"required": ["type"]} if "oneOf" in option else (
                _required_schema(definitions[_definition_name(option)], definitions) if "$ref" in option else {})
            if "$ref" in option.get("items", {}):
                inner = {"items": _required_schema(definitions[_definition_name(option["items"])], definitions)}
            if inner:
                below[key] = inner
    needed: Json = {"required": definition["required"]} if definition.get("required") else {}
    return {**needed, "properties": below} if below else needed


def _definition_name(option: Json) -> str:
    return str(option["$ref"]).rpartition("/")[2]


def _relax(node: Any) -> Any:
    """What the loader takes besides: a reference in place of a value, and unquoted numbers as text."""
    if isinstance(node, list):
        return [_relax(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    node = {LIMIT_KEYWORDS.get(key, key): inner if key in ("default", "enum", "examples") else _relax(inner)
            for key, inner in node.items() if key != "discriminator"}
    if node.get("type") == "string" and not {"const", "enum"} & node.keys():
        kinds = [kind for kind, text in UNQUOTED_EXAMPLES.items() if re.search(node.get("pattern", ""), text)]
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
