"""Nodes of a parsed recipe: mappings, lists and scalars, each with the span where it was written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dbrun.config_types import PlainScalar
from dbrun.recipe.text.spans import Span


@dataclass(frozen=True)
class ScalarNode:
    """A single value: a `PlainScalar` where it was written without quotes, else a `str`, which is always text."""

    value: str
    span: Span


@dataclass(frozen=True)
class SequenceNode:
    """A list."""

    values: tuple[Node, ...]
    span: Span


@dataclass(frozen=True)
class MappingNode:
    """A mapping. key_spans: key → where it was written; it may hold keys that are no longer in entries."""

    entries: Mapping[str, Node]
    key_spans: Mapping[str, Span]
    span: Span


Node = ScalarNode | SequenceNode | MappingNode
KeyPath = tuple[str | int, ...]


def plain_data(node: Node) -> object:
    """The node as dicts, tuples and strings, for validation by the recipe models."""
    if isinstance(node, ScalarNode):
        return node.value
    # tuples, since the models are strict and their fields are tuples
    if isinstance(node, SequenceNode):
        return tuple(plain_data(value) for value in node.values)
    return {key: plain_data(value) for key, value in node.entries.items()}


def merge(below: MappingNode, above: MappingNode) -> MappingNode:
    """The mapping above over the mapping below: mappings are merged key by key, anything else is replaced.

    A mapping with another `type` than the one below replaces it whole: settings of one optimizer mean nothing to
    another. A mapping that the command line only adds to keeps the span in its file.
    """
    entries, key_spans = dict(below.entries), {**below.key_spans, **above.key_spans}
    for key, value in above.entries.items():
        old = entries.get(key)
        if isinstance(old, MappingNode) and isinstance(value, MappingNode) and not _types_differ(old, value):
            value = merge(old, value)
            # a span of the command line could show only one of the mapping's keys
            if key_spans[key].file is None:
                key_spans[key] = below.key_spans[key]
        entries[key] = value
    span = above.span if above.span.file else below.span
    return MappingNode(entries, key_spans, span)


def drop_key(table: MappingNode, key: str) -> MappingNode:
    """The mapping without the value at a dotted key; unchanged where there is none. Lists are not entered."""
    name, dot, rest = key.partition(".")
    entries = dict(table.entries)
    inner = entries.get(name)
    if not dot:
        entries.pop(name, None)
    elif isinstance(inner, MappingNode):
        entries[name] = drop_key(inner, rest)
    return MappingNode(entries, table.key_spans, table.span)


def _types_differ(below: MappingNode, above: MappingNode) -> bool:
    old, new = below.entries.get("type"), above.entries.get("type")
    if not isinstance(old, ScalarNode) or not isinstance(new, ScalarNode):
        return False
    return str(old.value) != str(new.value)


def _children(node: Node) -> Iterable[tuple[str | int, Node]]:
    """(key or index, node) of each value directly inside a node, in the order of writing; none for a scalar."""
    if isinstance(node, SequenceNode):
        return enumerate(node.values)
    if isinstance(node, MappingNode):
        return node.entries.items()
    return ()


def leaves(node: Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, ScalarNode]]:
    """(path, scalar) for every scalar, in the order of writing."""
    if isinstance(node, ScalarNode):
        yield path, node
    for key, value in _children(node):
        yield from leaves(value, (*path, key))


def child(node: Node, key: str | int) -> Node | None:
    """The value at a key or an index of a node; None where there is none."""
    if isinstance(node, MappingNode) and isinstance(key, str):
        return node.entries.get(key)
    if isinstance(node, SequenceNode) and isinstance(key, int) and 0 <= key < len(node.values):
        return node.values[key]
    return None


def node_at(node: Node, path: KeyPath) -> Node | None:
    """The node at a path; None where there is none."""
    current: Node | None = node
    for key in path:
        if current is None:
            return None
        current = child(current, key)
    return current


def origins(node: Node, path: KeyPath = ()) -> Iterator[tuple[str, Span]]:
    """(dotted key, span) of every value: `subject.images`, `export.0` …; without the root."""
    if path:
        yield dotted_key(path), node.span
    for key, value in _children(node):
        yield from origins(value, (*path, key))


def dotted_key(path: KeyPath) -> str:
    """The path as text: `("adapt", "denoiser")` is `adapt.denoiser`."""
    return ".".join(str(step) for step in path)


def describe_node(node: Node) -> str:
    """Short description of a value for messages that begin with "found"."""
    if isinstance(node, SequenceNode):
        return "a list" if node.values else "an empty list"
    if isinstance(node, MappingNode):
        return "a mapping" if node.entries else "an empty mapping"
    text = node.value
    if len(text) > 60:
        text = text[:57] + "…"
    # quotes are named because they may be the mistake: "3" in quotes is no number
    quoted = not isinstance(node.value, PlainScalar)
    if quoted:
        return f'"{text}" in quotes' if text else "empty text"
    return f"'{text}'" if text else "nothing"
