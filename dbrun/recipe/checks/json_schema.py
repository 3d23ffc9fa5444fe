"""The JSON Schema of a recipe, generated from the models: editors complete, explain and check recipes with it."""

from __future__ import annotations

import json
import re
from typing import Any

from dbrun.config_types import Part
from dbrun.recipe.checks import schema_info
from dbrun.recipe.checks.field_docs import field_docs

REFERENCE = {"type": "string", "pattern": r"\$\{.+\}"}
EXTENDS_SCHEMA = {
    "description": "A recipe, or several, that this recipe builds on: the name of one that comes with dbrun, or a path "
                   "relative to this file.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
}
ENV_SCHEMA = {
    "description": "Environment variables that values may read as `${env:NAME}`; never secrets, since a recipe's "
                   "values are written into its exports.",
    "type": "array", "items": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
}
PROFILES_DESCRIPTION = "Named parts of a recipe; `--profile NAME` merges one over the recipe."
VALUE_KEYWORDS = ("default", "enum", "examples")
"""Keywords whose contents are values of a recipe, not schemas."""
LIMIT_KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum",
                  "multiple_of": "multipleOf"}
SUBJECT_REQUIRED = [{"required": ["subject"]}, {"required": ["subjects"]}]
"""A recipe has one of these keys."""
UNQUOTED_EXAMPLES = {"number": "2024", "boolean": "true"}
"""JSON type that an editor sees in an unquoted value → an example; dbrun reads such a value as text."""
Json = dict[str, Any]


def schema_text() -> str:
    """The JSON Schema (draft 2020-12) of a recipe as text; equal models give equal text.

    A recipe that `extends` another may leave out keys, so keys are required only in a recipe that does not.
    """
    from dbrun.recipe.schema.model import Recipe

    # serialization: the validation schema would show what validators take, not what people write
    recipe_schema: Json = Recipe.model_json_schema(mode="serialization")
    parts = _parts_by_name()
    definitions = recipe_schema.pop("$defs")
    for name, definition in {**definitions, Recipe.__name__: recipe_schema}.items():
        _describe(definition, parts[name])
    # required keys move from each definition into one condition at the top
    required = _required_schema(recipe_schema, definitions)
    for definition in (recipe_schema, *definitions.values()):
        definition.pop("required", None)
    _make_exclusive(recipe_schema, definitions, parts)
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_relax(recipe_schema),
             "if": {"not": {"required": ["extends"]}}, "then": {**required, "anyOf": SUBJECT_REQUIRED},
             "$defs": _relax(dict(sorted(definitions.items())))}
    # a profile may have any key of a recipe, but none of the file keys
    profile = {"type": "object", "additionalProperties": False,
               "properties": {key: {"$ref": f"#/properties/{key}"} for key in whole["properties"]}}
    profiles = {"description": PROFILES_DESCRIPTION, "type": "object", "additionalProperties": profile}
    whole["properties"] = {"extends": EXTENDS_SCHEMA, "profiles": profiles, "env": ENV_SCHEMA, **whole["properties"]}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _parts_by_name() -> dict[str, type[Part]]:
    """Class name → part, for every part of a recipe; pydantic names definitions by their classes."""
    parts: dict[str, type[Part]] = {}
    for part in _all_parts(schema_info.root()):
        other = parts.setdefault(part.__name__, part)
        if other is not part:
            raise TypeError(f"{other.__module__} and {part.__module__} both have a class {part.__name__}, and the "
                            "schema can define one of that name")
    return parts


def _all_parts(spot: schema_info.SchemaNode) -> list[type[Part]]:
    parts = list(spot.parts)
    for key in schema_info.allowed_keys(spot):
        parts += _all_parts(schema_info.schema_child(spot, key))
    return parts


def _describe(definition: Json, part: type[Part]) -> None:
    texts = field_docs(part)
    for key, field in definition["properties"].items():
        # pydantic's titles only repeat the key
        field.pop("title", None)
        if key in texts:
            field["description"] = texts[key]


def _make_exclusive(recipe_schema: Json, definitions: Json, parts: dict[str, type[Part]]) -> None:
    """Make the members of each union exclude each other: each requires its `type`, and one more member has none.

    The member without `type` is for an extending recipe or a profile, where the `type` is written in another place.
    """
    # a list, since the loop adds definitions
    for definition in [recipe_schema, *definitions.values()]:
        for field in definition["properties"].values():
            for union in [field, *field.get("anyOf", [])]:
                if "oneOf" in union:
                    _add_untyped_member(union, definitions, parts)


def _add_untyped_member(union: Json, definitions: Json, parts: dict[str, type[Part]]) -> None:
    names = [_definition_name(option) for option in union["oneOf"]]
    for name in names:
        definitions[name]["required"] = ["type"]
    base = _common_base([parts[name] for name in names])
    untyped = f"{base.__name__}WithoutType"
    definitions[untyped] = _untyped_member({name: definitions[name] for name in names})
    union["oneOf"].append({"$ref": f"#/$defs/{untyped}"})


def _common_base(members: list[type[Part]]) -> type[Part]:
    """The nearest class that all members of a union inherit from."""
    common = set(members[0].__mro__).intersection(*[member.__mro__ for member in members])
    # the method resolution order goes from the nearest class to `object`
    return next(base for base in members[0].__mro__ if base in common)


def _untyped_member(members: Json) -> Json:
    """Schema of a mapping that is one of these members, without `type`. members: class name → its schema."""
    variants: dict[str, list[Json]] = {}
    refs: dict[str, list[Json]] = {}
    for name, member in members.items():
        for key, field in member["properties"].items():
            # members often share a field; equal schemas are listed once
            if key == "type" or field in variants.get(key, []):
                continue
            variants.setdefault(key, []).append(field)
            refs.setdefault(key, []).append({"$ref": f"#/$defs/{name}/properties/{key}"})
    properties: Json = {}
    for key, fields in variants.items():
        choice: Json = {"anyOf": refs[key]}
        if len(fields) == 1:
            choice = refs[key][0]
        properties[key] = {"description": fields[0]["description"], **choice}
    # listed, so that editors offer it; `not: {}` refuses every value, since with a `type` another member applies
    first = next(iter(members.values()))
    properties["type"] = {"description": first["properties"]["type"]["description"], "not": {}}
    return {"additionalProperties": False, "description": "A mapping whose `type` is in an extended recipe.",
            "properties": properties, "title": "mapping with a `type`", "type": "object"}


def _required_schema(definition: Json, definitions: Json) -> Json:
    """Required keys of a mapping and of the mappings inside it, as a schema of its own."""
    inside = {}
    for key, field in definition["properties"].items():
        for option in [field, *field.get("anyOf", [])]:
            required = _required_of(option, definitions)
            if required:
                inside[key] = required
    schema: Json = {}
    if definition.get("required"):
        schema["required"] = definition["required"]
    if inside:
        schema["properties"] = inside
    return schema


def _required_of(option: Json, definitions: Json) -> Json:
    """As `_required_schema`, for one option of a field."""
    if "$ref" in option.get("items", {}):
        item = definitions[_definition_name(option["items"])]
        return {"items": _required_schema(item, definitions)}
    # in a union `type` chooses the member, whose own keys an extending recipe may inherit
    if "oneOf" in option:
        return {"required": ["type"]}
    if "$ref" in option:
        return _required_schema(definitions[_definition_name(option)], definitions)
    return {}


def _definition_name(option: Json) -> str:
    return str(option["$ref"]).rpartition("/")[2]


def _relax(node: Any) -> Any:
    """The schema with what the loader also accepts: a reference instead of a value, and unquoted numbers as text."""
    if isinstance(node, list):
        return [_relax(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    schema: Json = node
    relaxed: Json = {}
    for key, inner in schema.items():
        if key in VALUE_KEYWORDS:
            relaxed[key] = inner
        elif key != "discriminator":
            relaxed[LIMIT_KEYWORDS.get(key, key)] = _relax(inner)
    if relaxed.get("type") == "string" and not {"const", "enum"} & relaxed.keys():
        pattern = relaxed.get("pattern", "")
        kinds = [kind for kind, text in UNQUOTED_EXAMPLES.items() if re.search(pattern, text)]
        relaxed["type"] = ["string", *kinds]
    if relaxed.get("type") in ("integer", "number", "boolean") or {"enum", "pattern"} & relaxed.keys():
        return _or_reference(relaxed)
    if "anyOf" in relaxed:
        _flatten_choices(relaxed)
    return relaxed


def _flatten_choices(node: Json) -> None:
    """Replace nested choices by one list: editors offer the members of a nested one badly, or not at all."""
    options: list[Json] = []
    for option in node["anyOf"]:
        options += option.get("anyOf", [option])
    node["anyOf"] = options
    unions = [option["oneOf"] for option in options if "oneOf" in option]
    if unions:
        *typed, untyped = unions[0]
        others = [option for option in options if "oneOf" not in option]
        del node["anyOf"]
        node["oneOf"] = [*typed, *others, untyped]


def _or_reference(node: Json) -> Json:
    # description and default stay outside, where editors look for them
    outer: Json = {key: node.pop(key) for key in ("description", "default") if key in node}
    return {**outer, "anyOf": [node, REFERENCE]}
