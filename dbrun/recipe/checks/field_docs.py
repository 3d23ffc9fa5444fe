"""Docstrings of recipe fields, read from the source of their modules when a schema or an error needs them.

Python keeps no docstrings of attributes at run time. pydantic's `use_attribute_docstrings` reads the sources of all
models at every start; here only what is needed is read.
"""

from __future__ import annotations

import ast
import importlib
from functools import cache
from itertools import pairwise
from pathlib import Path

from dbrun.config_types import Part


def field_docs(part: type[Part]) -> dict[str, str]:
    """Key → its docstring, inherited ones included; for a field made from a registry, its `description`."""
    keys = {name: info.alias or name for name, info in part.model_fields.items()}
    texts = {keys[name]: info.description for name, info in part.model_fields.items() if info.description}
    # from the most general class on, so that a subclass can describe an inherited field anew
    for owner in reversed(part.__mro__):
        if not issubclass(owner, Part) or owner is Part:
            continue
        for name, text in _module_field_docs(owner.__module__).get(owner.__name__, {}).items():
            if name in keys:
                texts[keys[name]] = text
    return texts


@cache
def _module_field_docs(module: str) -> dict[str, dict[str, str]]:
    """Class → attribute → its docstring, for all classes of a module."""
    file = importlib.import_module(module).__file__
    tree = ast.parse(Path(file or "").read_text(encoding="utf-8"))
    return {node.name: _class_field_docs(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _class_field_docs(node: ast.ClassDef) -> dict[str, str]:
    texts: dict[str, str] = {}
    # an attribute's docstring is the string statement right after its annotated assignment
    for pair in pairwise(node.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = " ".join(text.split())
    return texts
