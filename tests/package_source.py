"""The source of dbrun as the rules of tests/house see it: files, syntax trees, and who imports whom."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "dbrun").rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def place(path: Path) -> str:
    """The name of a file in messages: its path in the repository."""
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """`dbrun.a.b` of dbrun/a/b.py, `dbrun.a` of dbrun/a/__init__.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def package_of(module: str) -> str:
    """What of dbrun a module belongs to: `store` of `dbrun.store.objects`, `seeds` of `dbrun.seeds`, else nothing."""
    return module.removeprefix("dbrun").lstrip(".").partition(".")[0]


def imported_names(path: Path, *, at_import: bool = False) -> list[str]:
    """Every module and `module.name` that a file imports; at_import: only what importing the file imports."""
    found: list[str] = []
    for node in _walk(tree_of(path), at_import):
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{place(path)}:{node.lineno}: imports are absolute"
            found.append(node.module)
            found.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _walk(node: ast.AST, at_import: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if at_import and _runs_later_or_never(child):
            continue
        yield child
        yield from _walk(child, at_import)


def _runs_later_or_never(node: ast.AST) -> bool:
    """Whether importing a file does not run this: a function's body, or a block for type checkers."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def own_imports(path: Path, *, at_import: bool = False) -> set[str]:
    """The modules of dbrun that a file names in its imports."""
    found = set()
    for name in imported_names(path, at_import=at_import):
        if name in MODULES:
            found.add(name)
    own = module_name(path)
    # `from dbrun.a import b` names the package dbrun.a as well, which a module of it does not depend on
    return {name for name in found if name != own and not own.startswith(f"{name}.")}


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The groups of modules that reach each other, each sorted (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in graph[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] != index[module]:
            return
        group = stack[stack.index(module):]
        del stack[stack.index(module):]
        if len(group) > 1:
            found.append(sorted(group))

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return sorted(found)
