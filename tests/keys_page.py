"""The page schemas/README.md: a table of every key of a recipe, made from the same models as the JSON schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic_core import PydanticUndefined

from dbrun.config_types import Part
from dbrun.recipe.checks.field_docs import field_docs
from dbrun.recipe.checks.schema_info import (
    SchemaNode,
    describe_type,
    fields_by_key,
    root,
    schema_child,
    type_tag,
)
from dbrun.recipe.text.tree import dotted_key

HEAD = """# Every key of a recipe

Generated from the code by `python tests/house/regenerate.py`. `recipe.schema.json` beside it is the same for editors.
A key that is left out has its default; `-` stands for none, and *required* for a key without one. Keys of one `type`
only name it in brackets.
"""


def keys_page() -> str:
    """The text of the page; equal models give equal text."""
    lines = [HEAD]
    shown: dict[tuple[type[Part], ...], str] = {}
    top = root()
    rows = []
    for key in fields_by_key(top.parts[0]):
        rows.append(_row((key,), key, top, top.parts))
    lines += ["## recipe", "", *_table(rows)]
    for key in fields_by_key(top.parts[0]):
        node = schema_child(top, key)
        rows = list(_rows_below((key,), node, shown))
        if rows:
            lines += ["", f"## {key}", "", *_table(rows)]
    return "\n".join(lines) + "\n"


def _table(rows: list[str]) -> list[str]:
    return ["| key | value | default | meaning |", "|---|---|---|---|", *rows]


def _rows_below(path: tuple[str | int, ...], node: SchemaNode,
                shown: dict[tuple[type[Part], ...], str]) -> Iterator[str]:
    """A row for each key below a path. shown: parts that have rows already → the key where these are."""
    if not node.parts:
        return
    place = dotted_key(path)
    if node.parts in shown:
        yield f"| `{place}.…` | | | as `{shown[node.parts]}` |"
        return
    shown[node.parts] = place
    # members of a union that differ in a key's value, default or meaning have a row each
    owners: dict[tuple[str, str, str, str], list[type[Part]]] = {}
    for part in node.parts:
        texts = field_docs(part)
        for key, info in fields_by_key(part).items():
            same = (key, "", "", "")
            if key != "type":
                same = (key, _value(key, node, part), _default(info), texts.get(key, ""))
            owners.setdefault(same, []).append(part)
    for (key, *_), parts in owners.items():
        yield _row((*path, key), key, node, tuple(parts))
    for key in dict.fromkeys(key for key, *_ in owners):
        yield from _rows_below((*path, key), schema_child(node, key), shown)


def _row(path: tuple[str | int, ...], key: str, node: SchemaNode, parts: tuple[type[Part], ...]) -> str:
    """The row of one key. parts: those of the node's parts that have it."""
    info = fields_by_key(parts[0])[key]
    if key == "type" and len(parts) > 1:
        value = ", ".join(sorted(filter(None, map(type_tag, parts))))
    else:
        value = _value(key, node, parts[0])
    meaning = field_docs(parts[0]).get(key) or info.description or ""
    if len(parts) < len(node.parts):
        tags = [tag for tag in map(type_tag, parts) if tag]
        meaning = f"{meaning} ({', '.join(tags)})"
    return f"| `{dotted_key(path)}` | {_cell(value)} | {_cell(_default(info))} | {_cell(meaning)} |"


def _value(key: str, node: SchemaNode, part: type[Part]) -> str:
    """What a key may be. part: the one of the node's parts whose key it is: another may have other limits."""
    info = fields_by_key(part)[key]
    if callable(info.json_schema_extra):
        listed: dict[str, Any] = {}
        info.json_schema_extra(listed)
        return ", ".join(listed["enum"])
    return describe_type(schema_child(SchemaNode(node.annotation, (part,)), key).annotation)


def _default(info: object) -> str:
    default = getattr(info, "default", None)
    if default is PydanticUndefined:
        return "*required*"
    if default is None or isinstance(default, Part):
        return "-"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def _cell(text: str) -> str:
    """Text in a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
