"""What the models' docstrings say of each key: read from their source where a schema or an error needs it."""

from __future__ import annotations

import ast
import importlib
from functools import cache
from itertools import pairwise
from pathlib import Path

from dbrun.config_types import Part


def field_docs(part: type[Part]) -> dict[str, str]:
    """Key → its docstring, inherited ones included; the description of a field that is made from a registry."""
    texts = {info.alias or name: info.description for name, info in part.model_fields.items() if info.description}
    for owner in reversed(part.__mro__):
        if issubclass(owner, Part) and owner is not Part:
            written = _module_field_docs(owner.__module__).get(owner.__name__, {})
            texts |= {(part.model_fields[name].alias or name): text for name, text in written.items()
                      if name in part.model_fields}
    return texts


@cache
def _module_field_docs(module: str) -> dict[str, dict[str, str]]:
    """Class → attribute → the text that stands below it."""
    file = importlib.import_module(module).__file__
    tree = ast.parse(Path(file or "").read_text(encoding="utf-8"))
    return {node.name: _class_field_docs(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _class_field_docs(node: ast.ClassDef) -> dict[str, str]:
    texts: dict[str, str] = {}
    for pair in pairwise(node.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                texts[name] = " ".join(words.split())
    return texts
