"""The recipe models as a tree of allowed keys and types, for error messages and the JSON schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from dbrun.config_types import Part
from dbrun.recipe.checks.suggestions import join_with_or
from dbrun.recipe.schema.model import PATTERN_WORDS
from dbrun.recipe.text.tree import KeyPath, MappingNode, Node, SequenceNode, child, dotted_key

TYPE_NAMES: Mapping[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
LIMIT_WORDS = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class SchemaNode:
    """A position in the schema. annotation: its type with limits; parts: the models that a mapping there may be."""

    annotation: Any
    parts: tuple[type[Part], ...]


def root() -> SchemaNode:
    """The schema node of the whole recipe."""
    from dbrun.recipe.schema.model import Recipe

    return SchemaNode(Recipe, (Recipe,))


def fields_by_key(part: type[Part]) -> dict[str, FieldInfo]:
    """Key as written in a recipe → field of the model."""
    return {info.alias or name: info for name, info in part.model_fields.items()}


def allowed_keys(spot: SchemaNode) -> tuple[str, ...]:
    """Keys that a mapping at this position may have, in the order of its classes' fields, each once."""
    keys: list[str] = []
    for part in spot.parts:
        keys += fields_by_key(part)
    return tuple(dict.fromkeys(keys))


def schema_child(spot: SchemaNode, key: str | int) -> SchemaNode:
    """The schema node of a key of a mapping, or of the items of a list."""
    if isinstance(key, int):
        return _schema_node([_item_type(spot.annotation)])
    fields = [fields_by_key(part) for part in spot.parts]
    return _schema_node([_annotated(by_key[key]) for by_key in fields if key in by_key])


def all_keys() -> tuple[str, ...]:
    """Every dotted key that a recipe may have."""
    return tuple(dict.fromkeys(dotted_key(path) for path in _paths(root(), ())))


def type_tag(part: type[Part]) -> str | None:
    """Value of `type` that selects this part in a union; None for a part without `type`."""
    if "type" not in part.model_fields:
        return None
    values = get_args(part.model_fields["type"].annotation)
    if not values:
        return None
    return str(values[0])


def locate(loc: tuple[str | int, ...], data: Node) -> tuple[KeyPath, SchemaNode]:
    """Translate the location of a pydantic error: path in the recipe, and the schema node there.

    pydantic adds steps that no recipe has: the tag of a union's member, and labels of validators.
    """
    path: KeyPath = ()
    spot = root()
    node: Node | None = data
    # a member's tag can equal one of its keys, so a tag is looked for only once at each position
    chose_member = False
    for step in loc:
        members: tuple[type[Part], ...] = ()
        if len(spot.parts) > 1 and not chose_member:
            members = tuple(part for part in spot.parts if type_tag(part) == step)
        if members:
            spot, chose_member = SchemaNode(spot.annotation, members), True
        elif _is_step(step, node, spot):
            path, spot, chose_member = (*path, step), schema_child(spot, step), False
            if node is not None:
                node = child(node, step)
    return path, spot


def describe_type(annotation: Any) -> str:
    """A type in words: "a whole number from 1 to 64", "fp32, bf16 or fp16" …"""
    description = _describe(annotation)
    words, limits = description.words, description.limits
    if "multiple_of" in limits:
        words = f"a multiple of {limits['multiple_of']}"
    low, high = limits.get("ge"), limits.get("le")
    if low is not None and high is not None:
        return f"{words} from {low} to {high}"
    clauses = [f"{word} {_round_number(limits[name])}" for name, word in LIMIT_WORDS.items() if name in limits]
    if description.pattern:
        # a regular expression explains nothing to most people
        rule = PATTERN_WORDS.get(description.pattern, f"pattern {description.pattern}")
        if description.example:
            clauses.append(f"such as '{description.example}' ({rule})")
        else:
            clauses.append(f"({rule})")
    if not clauses:
        return words
    return f"{words} {' and '.join(clauses)}"


def _round_number(limit: float) -> float:
    """The limit as people write it: 1000000 instead of 1000000.0."""
    return int(limit) if limit == int(limit) else limit


def literal_values(annotation: Any) -> tuple[str, ...]:
    """Words of the Literal inside a type; empty where there is none."""
    if get_origin(annotation) is Literal:
        return tuple(str(value) for value in get_args(annotation))
    values: list[str] = []
    for inner in _type_args(annotation):
        values += literal_values(inner)
    return tuple(values)


def _is_step(step: str | int, node: Node | None, spot: SchemaNode) -> bool:
    """Whether a step of pydantic's location is a step in the recipe too, not only a label."""
    if isinstance(step, int):
        return isinstance(node, SequenceNode)
    return isinstance(node, MappingNode) and (step in node.entries or step in allowed_keys(spot))


def _paths(spot: SchemaNode, path: KeyPath) -> Iterator[KeyPath]:
    for key in allowed_keys(spot):
        yield (*path, key)
        yield from _paths(schema_child(spot, key), (*path, key))


def _annotated(info: FieldInfo) -> Any:
    """The field's type with the limits that pydantic keeps apart from it, in FieldInfo.metadata."""
    extra = list(info.metadata)
    if info.examples:
        extra.append(info)
    if not extra:
        return info.annotation
    return Annotated[info.annotation, *extra]


def _schema_node(annotations: list[Any]) -> SchemaNode:
    """One schema node for a key that several members of a union have, with the first one's type."""
    parts: list[type[Part]] = []
    for annotation in annotations:
        parts += _parts(annotation)
    first = annotations[0] if annotations else Any
    return SchemaNode(first, tuple(dict.fromkeys(parts)))


@cache
def _parts(annotation: Any) -> tuple[type[Part], ...]:
    """Models in a type, but not those of a list's items: a list has no keys of its own."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return (annotation,)
    if get_origin(annotation) is tuple:
        return ()
    parts: list[type[Part]] = []
    for inner in _type_args(annotation):
        parts += _parts(inner)
    return tuple(parts)


def _type_args(annotation: Any) -> tuple[Any, ...]:
    """Types inside a type: of Annotated the type alone, of Literal none, since its arguments are values."""
    if get_origin(annotation) is Annotated:
        return (get_args(annotation)[0],)
    if get_origin(annotation) is Literal:
        return ()
    return get_args(annotation)


def _item_type(annotation: Any) -> Any:
    """Type of the items of the list inside a type; Any where there is no list."""
    if get_origin(annotation) is tuple:
        return get_args(annotation)[0]
    for inner in _type_args(annotation):
        item = _item_type(inner)
        if item is not Any:
            return item
    return Any


@dataclass
class _Description:
    """A type in words.

    limits: name in LIMIT_WORDS, or multiple_of → its number; pattern: a regular expression; example: for that.
    """

    words: str
    limits: dict[str, Any] = field(default_factory=dict)
    pattern: str | None = None
    example: str | None = None


def _describe(annotation: Any) -> _Description:
    origin = get_origin(annotation)
    if origin is Annotated:
        description = _describe(get_args(annotation)[0])
        for extra in annotation.__metadata__:
            _add_limits(description, extra)
        return description
    if origin is Literal:
        return _Description(join_with_or([str(value) for value in get_args(annotation)]))
    if origin is tuple:
        item = describe_type(get_args(annotation)[0])
        return _Description(f"a list of {item.removeprefix('a ')}")
    if origin is not None:
        return _describe_union(_type_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return _describe_part(annotation)
    return _Description(TYPE_NAMES.get(annotation, "a value"))


def _add_limits(description: _Description, extra: Any) -> None:
    """Add the limits of one item of Annotated: a FieldInfo, which keeps them in `metadata`, or a limit itself."""
    if getattr(extra, "examples", None):
        description.example = str(extra.examples[0])
    for limit in getattr(extra, "metadata", None) or [extra]:
        for name in (*LIMIT_WORDS, "multiple_of"):
            value = getattr(limit, name, None)
            if value is not None:
                description.limits[name] = value
        description.pattern = getattr(limit, "pattern", None) or description.pattern


def _describe_part(part: type[Part]) -> _Description:
    fields = fields_by_key(part)
    required = [key for key, info in fields.items() if info.is_required()]
    # without required keys the first one serves as the example
    keys = required or list(fields)[:1]
    inner = ", ".join(f"{key}: …" for key in keys)
    return _Description(f"a mapping such as {{{inner}}}")


def _describe_union(members: tuple[Any, ...]) -> _Description:
    """Description of a union, of each member with its limits; `null` is never named."""
    present = [member for member in members if member is not type(None)]
    if len(present) == 1:
        return _describe(present[0])
    parts: list[type[Part]] = []
    for member in members:
        parts += _parts(member)
    if parts:
        usual = [part for part in parts if part.USUAL] or parts
        return _Description(f"a mapping such as {{type: {type_tag(usual[0])}}}")
    distinct = dict.fromkeys(describe_type(member) for member in present)
    return _Description(join_with_or(list(distinct)))
