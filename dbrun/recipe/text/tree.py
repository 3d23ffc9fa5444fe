"""What a recipe is before it is a Recipe: tables, lists and scalars that know where they were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dbrun.config_types import PlainScalar
from dbrun.recipe.text.spans import Span


@dataclass(frozen=True)
class ScalarNode:
    """A single value: `PlainScalar` where it stands unquoted, so that the schema may read it; otherwise text."""

    value: str
    span: Span


@dataclass(frozen=True)
class SequenceNode:
    """A list."""

    values: tuple[Node, ...]
    span: Span


@dataclass(frozen=True)
class MappingNode:
    """A mapping. key_spans: where each key stands."""

    entries: Mapping[str, Node]
    key_spans: Mapping[str, Span]
    span: Span


Node = ScalarNode | SequenceNode | MappingNode
KeyPath = tuple[str | int, ...]


def plain_data(node: Node) -> object:
    """The node as dicts, tuples and texts, the form that the models validate."""
    if isinstance(node, ScalarNode):
        return node.value
    if isinstance(node, SequenceNode):
        return tuple(plain_data(v) for v in node.values)
    return {key: plain_data(value) for key, value in node.entries.items()}


def merge(below: MappingNode, above: MappingNode) -> MappingNode:
    """above laid over below: mappings are joined key by key, anything else is replaced.

    Where a mapping inside names another `type` than the one below, it is another part and replaces it whole.
    A mapping that the command line only adds to stays where its file has it.
    """
    entries, keys = dict(below.entries), {**below.key_spans, **above.key_spans}
    for key, value in above.entries.items():
        under = entries.get(key)
        if isinstance(under, MappingNode) and isinstance(value, MappingNode) and not _types_differ(under, value):
            value = merge(under, value)
            keys[key] = keys[key] if keys[key].file else below.key_spans[key]
        entries[key] = value
    return MappingNode(entries, keys, above.span if above.span.file else below.span)


def drop_key(table: MappingNode, key: str) -> MappingNode:
    """The mapping without the value of a dotted key; as it is where there is none in mappings of mappings."""
    name, dot, rest = key.partition(".")
    below = table.entries.get(name)
    kept = {other: node for other, node in table.entries.items() if other != name}
    if dot:
        kept = {**table.entries, name: drop_key(below, rest)} if isinstance(below, MappingNode) else dict(table.entries)
    return MappingNode(kept, table.key_spans, table.span)


def _types_differ(below: MappingNode, above: MappingNode) -> bool:
    old, new = below.entries.get("type"), above.entries.get("type")
    return isinstance(old, ScalarNode) and isinstance(new, ScalarNode) and str(old.value) != str(new.value)


def leaves(node: Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, ScalarNode]]:
    """Every scalar with its path, in the order of writing."""
    if isinstance(node, ScalarNode):
        yield path, node
        return
    inner = enumerate(node.values) if isinstance(node, SequenceNode) else node.entries.items()
    for key, value in inner:
        yield from leaves(value, (*path, key))


def child(node: Node, key: str | int) -> Node | None:
    """The node below, or None."""
    if isinstance(node, MappingNode) and isinstance(key, str):
        return node.entries.get(key)
    if isinstance(node, SequenceNode) and isinstance(key, int) and 0 <= key < len(node.values):
        return node.values[key]
    return None


def node_at(node: Node, path: KeyPath) -> Node | None:
    """The node at a path, or None."""
    found: Node | None = node
    for key in path:
        found = child(found, key) if found is not None else None
    return found


def origins(node: Node, path: KeyPath = ()) -> Iterator[tuple[str, Span]]:
    """Dotted key → place of every value: `subject.images`, `export.0` …"""
    if path:
        yield dotted_key(path), node.span
    inner = enumerate(node.values) if isinstance(node, SequenceNode) else (
        node.entries.items() if isinstance(node, MappingNode) else ())
    for key, value in inner:
        yield from origins(value, (*path, key))


def dotted_key(path: KeyPath) -> str:
    """`("adapt", "denoiser")` as `adapt.denoiser`."""
    return ".".join(str(p) for p in path)


def describe_node(node: Node) -> str:
    """The value in words, for "found …"."""
    if isinstance(node, SequenceNode):
        return "a list" if node.values else "an empty list"
    if isinstance(node, MappingNode):
        return "a mapping" if node.entries else "an empty mapping"
    text = node.value if len(node.value) <= 60 else node.value[:57] + "…"
    if not isinstance(node.value, PlainScalar):
        return f'"{text}" in quotes' if text else "empty text"
    return f"'{text}'" if text else "nothing"
