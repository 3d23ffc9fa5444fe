"""Which keys may stand where, and what each may hold: the models, read as a map for error messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from dbrun.config_types import Part
from dbrun.recipe.checks.suggestions import join_with_or
from dbrun.recipe.schema.model import PATTERN_WORDS
from dbrun.recipe.text.tree import KeyPath, MappingNode, Node, SequenceNode, child, dotted_key

TYPE_NAMES: Mapping[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
LIMIT_WORDS = {"ge": "of at least", "gt": "greater than", "le": "of at most", "lt": "less than"}


@dataclass(frozen=True)
class SchemaNode:
    """A place in the recipe's shape. annotation: its type with its limits; parts: the mappings it may be."""

    annotation: Any
    parts: tuple[type[Part], ...]


def root() -> SchemaNode:
    """The whole recipe."""
    from dbrun.recipe.schema.model import Recipe

    return SchemaNode(Recipe, (Recipe,))


def fields_by_key(part: type[Part]) -> dict[str, FieldInfo]:
    """A part's fields by the keys that people write."""
    return {info.alias or name: info for name, info in part.model_fields.items()}


def allowed_keys(spot: SchemaNode) -> tuple[str, ...]:
    """The keys that may stand here, in the order of the models."""
    return tuple(dict.fromkeys(key for part in spot.parts for key in fields_by_key(part)))


def schema_child(spot: SchemaNode, key: str | int) -> SchemaNode:
    """The spot of a key or of a list's item."""
    if isinstance(key, int):
        return _schema_node([_item_type(spot.annotation)])
    return _schema_node([_annotated(fields_by_key(part)[key]) for part in spot.parts if key in fields_by_key(part)])


def all_keys() -> tuple[str, ...]:
    """Every dotted key that a recipe may have."""
    return tuple(dict.fromkeys(dotted_key(path) for path in _paths(root(), ())))


def type_tag(part: type[Part]) -> str | None:
    """What selects this part in a union: its `type`."""
    if "type" not in part.model_fields:
        return None
    values = get_args(part.model_fields["type"].annotation)
    return str(values[0]) if values else None


def locate(loc: tuple[str | int, ...], data: Node) -> tuple[KeyPath, SchemaNode]:
    """pydantic's location as a path in the recipe: labels of union members fall away."""
    path: KeyPath = ()
    spot = root()
    node: Node | None = data
    entered = False
    for step in loc:
        chosen = tuple(p for p in spot.parts if type_tag(p) == step) if len(spot.parts) > 1 and not entered else ()
        if chosen:
            spot, entered = SchemaNode(spot.annotation, chosen), True
        elif _is_step(step, node, spot):
            path, spot, entered = (*path, step), schema_child(spot, step), False
            node = child(node, step) if node is not None else None
    return path, spot


def describe_type(annotation: Any) -> str:
    """What a value may be, in words: "a whole number from 1 to 64", "fp32, bf16 or fp16" …"""
    words, limits, pattern, example = _describe(annotation)
    low, high = limits.get("ge"), limits.get("le")
    if low is not None and high is not None:
        return f"{words} from {low} to {high}"
    extra = [f"{word} {limits[name]}" for name, word in LIMIT_WORDS.items() if name in limits]
    if pattern:
        rule = PATTERN_WORDS.get(pattern, f"pattern {pattern}")
        extra.append(f"such as '{example}' ({rule})" if example else f"({rule})")
    return " ".join([words, " and ".join(extra)]) if extra else words


def literal_values(annotation: Any) -> tuple[str, ...]:
    """The words that a value must be one of, where it is such a value."""
    if get_origin(annotation) is Literal:
        return tuple(str(v) for v in get_args(annotation))
    return tuple(word for inner in _type_args(annotation) for word in literal_values(inner))


def _is_step(step: str | int, node: Node | None, spot: SchemaNode) -> bool:
    if isinstance(step, int):
        return isinstance(node, SequenceNode)
    return isinstance(node, MappingNode) and (step in node.entries or step in allowed_keys(spot))


def _paths(spot: SchemaNode, path: KeyPath) -> Iterator[KeyPath]:
    for key in allowed_keys(spot):
        yield (*path, key)
        yield from _paths(schema_child(spot, key), (*path, key))


def _annotated(info: FieldInfo) -> Any:
    """The field's type with the limits that pydantic keeps beside it."""
    extra = (*info.metadata, *([info] if info.examples else []))
    return Annotated[info.annotation, *extra] if extra else info.annotation


def _schema_node(annotations: list[Any]) -> SchemaNode:
    parts = dict.fromkeys(part for annotation in annotations for part in _parts(annotation))
    return SchemaNode(annotations[0] if annotations else Any, tuple(parts))


@cache
def _parts(annotation: Any) -> tuple[type[Part], ...]:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return (annotation,)
    if get_origin(annotation) is tuple:
        return ()
    return tuple(part for inner in _type_args(annotation) for part in _parts(inner))


def _type_args(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        return (get_args(annotation)[0],)
    return () if get_origin(annotation) is Literal else get_args(annotation)


def _item_type(annotation: Any) -> Any:
    if get_origin(annotation) is tuple:
        return get_args(annotation)[0]
    return next((item for inner in _type_args(annotation) if (item := _item_type(inner)) is not Any), Any)


def _describe(annotation: Any) -> tuple[str, dict[str, Any], str | None, str | None]:
    """The words for a type, its limits, its pattern and an example."""
    origin = get_origin(annotation)
    if origin is Annotated:
        words, limits, pattern, example = _describe(get_args(annotation)[0])
        for extra in annotation.__metadata__:
            example = str(extra.examples[0]) if getattr(extra, "examples", None) else example
            for limit in getattr(extra, "metadata", None) or [extra]:
                limits |= {n: getattr(limit, n) for n in LIMIT_WORDS if getattr(limit, n, None) is not None}
                pattern = getattr(limit, "pattern", None) or pattern
        return words, limits, pattern, example
    if origin is Literal:
        return join_with_or([str(v) for v in get_args(annotation)]), {}, None, None
    if origin is tuple:
        return f"a list of {describe_type(get_args(annotation)[0]).removeprefix('a ')}", {}, None, None
    if origin is not None:
        return _describe_union(_type_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Part):
        needed = [key for key, info in fields_by_key(annotation).items() if info.is_required()]
        inner = ", ".join(f"{key}: …" for key in needed or allowed_keys(SchemaNode(annotation, (annotation,)))[:1])
        return f"a mapping such as {{{inner}}}", {}, None, None
    return TYPE_NAMES.get(annotation, "a value"), {}, None, None


def _describe_union(members: tuple[Any, ...]) -> tuple[str, dict[str, Any], str | None, str | None]:
    """The words for a union; the limits of a lone member stay the limits of the whole."""
    read = [_describe(m) for m in members if m is not type(None)]
    if len(read) == 1:
        return read[0]
    tags = [type_tag(part) for member in members for part in _parts(member)]
    words = [f"a mapping such as {{type: {tags[0]}}}"] if tags else list(dict.fromkeys(r[0] for r in read))
    return join_with_or(words), {}, None, None
