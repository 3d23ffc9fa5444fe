"""What a recipe is before it is a Recipe: tables, lists and scalars that know where they were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dbrun.config_types import Plain
from dbrun.recipe.text.spans import Place


@dataclass(frozen=True)
class Scalar:
    """A single value: `Plain` where it stands unquoted, so that the schema may read it; otherwise text."""

    value: str
    place: Place


@dataclass(frozen=True)
class Items:
    """A list."""

    values: tuple[Node, ...]
    place: Place


@dataclass(frozen=True)
class Table:
    """A mapping. keys: where each key stands."""

    entries: Mapping[str, Node]
    keys: Mapping[str, Place]
    place: Place


Node = Scalar | Items | Table
Path = tuple[str | int, ...]


def plain_data(node: Node) -> object:
    """The node as dicts, tuples and texts, the form that the models validate."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Items):
        return tuple(plain_data(v) for v in node.values)
    return {key: plain_data(value) for key, value in node.entries.items()}


def merge(below: Table, above: Table) -> Table:
    """above laid over below: mappings are joined key by key, anything else is replaced.

    Where a mapping inside names another `type` than the one below, it is another part and replaces it whole.
    A mapping that the command line only adds to stays where its file has it.
    """
    entries, keys = dict(below.entries), {**below.keys, **above.keys}
    for key, value in above.entries.items():
        under = entries.get(key)
        if isinstance(under, Table) and isinstance(value, Table) and not _other_type(under, value):
            value = merge(under, value)
            keys[key] = keys[key] if keys[key].file else below.keys[key]
        entries[key] = value
    return Table(entries, keys, above.place if above.place.file else below.place)


def without(table: Table, key: str) -> Table:
    """The mapping without the value of a dotted key; as it is where there is none in mappings of mappings."""
    name, dot, rest = key.partition(".")
    below = table.entries.get(name)
    kept = {other: node for other, node in table.entries.items() if other != name}
    if dot:
        kept = {**table.entries, name: without(below, rest)} if isinstance(below, Table) else dict(table.entries)
    return Table(kept, table.keys, table.place)


def _other_type(below: Table, above: Table) -> bool:
    old, new = below.entries.get("type"), above.entries.get("type")
    return isinstance(old, Scalar) and isinstance(new, Scalar) and str(old.value) != str(new.value)


def leaves(node: Node, path: Path = ()) -> Iterator[tuple[Path, Scalar]]:
    """Every scalar with its path, in the order of writing."""
    if isinstance(node, Scalar):
        yield path, node
        return
    inner = enumerate(node.values) if isinstance(node, Items) else node.entries.items()
    for key, value in inner:
        yield from leaves(value, (*path, key))


def child(node: Node, key: str | int) -> Node | None:
    """The node below, or None."""
    if isinstance(node, Table) and isinstance(key, str):
        return node.entries.get(key)
    if isinstance(node, Items) and isinstance(key, int) and 0 <= key < len(node.values):
        return node.values[key]
    return None


def at(node: Node, path: Path) -> Node | None:
    """The node at a path, or None."""
    found: Node | None = node
    for key in path:
        found = child(found, key) if found is not None else None
    return found


def origins(node: Node, path: Path = ()) -> Iterator[tuple[str, Place]]:
    """Dotted key → place of every value: `subject.images`, `export.0` …"""
    if path:
        yield dotted(path), node.place
    inner = enumerate(node.values) if isinstance(node, Items) else (
        node.entries.items() if isinstance(node, Table) else ())
    for key, value in inner:
        yield from origins(value, (*path, key))


def dotted(path: Path) -> str:
    """`("adapt", "denoiser")` as `adapt.denoiser`."""
    return ".".join(str(p) for p in path)


def found(node: Node) -> str:
    """The value in words, for "found …"."""
    if isinstance(node, Items):
        return "a list" if node.values else "an empty list"
    if isinstance(node, Table):
        return "a mapping" if node.entries else "an empty mapping"
    text = node.value if len(node.value) <= 60 else node.value[:57] + "…"
    if not isinstance(node.value, Plain):
        return f'"{text}" in quotes' if text else "empty text"
    return f"'{text}'" if text else "nothing"
