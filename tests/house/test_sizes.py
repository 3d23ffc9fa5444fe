"""Files and functions stay small, documented and well named, and nobody repeats themselves or prints."""

import ast
from collections import defaultdict
from pathlib import Path

from package_source import FILES, place, tree_of

BANNED = {"utils", "helpers", "common", "manager", "handler", "misc"}
FILE_LINES, FUNCTION_LINES, LOOP_LINES = 400, 60, 100
LOOP = "dbrun/training/loop.py"
"""The one file whose functions may be as long as LOOP_LINES, so that a step can be read from top to bottom."""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_files_are_short() -> None:
    lengths = {place(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > FILE_LINES} == {}


def test_functions_fit_on_a_screen() -> None:
    for path in FILES:
        limit = LOOP_LINES if place(path) == LOOP else FUNCTION_LINES
        for node in ast.walk(tree_of(path)):
            if isinstance(node, FUNCTIONS):
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1
                assert length <= limit, f"{place(path)}: {node.name} is {length} lines"


def test_modules_and_what_is_public_are_documented() -> None:
    for path in FILES:
        tree = tree_of(path)
        assert ast.get_docstring(tree) or not tree.body, f"{place(path)}: the first line says what is in it"
        for node in public(tree):
            assert ast.get_docstring(node), f"{place(path)}: {node.name} has no docstring"


def public(tree: ast.Module) -> list[ast.FunctionDef | ast.ClassDef]:
    """The functions, classes and methods of a module whose names do not begin with an underscore."""
    found = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            found.append(node)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            methods = [m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
            found.extend(methods)
    return found


def test_names_say_what_a_file_is() -> None:
    for path in FILES:
        words = {word for part in Path(place(path)).with_suffix("").parts for word in part.split("_")}
        assert not BANNED & words, place(path)


def test_less_than_two_percent_of_the_lines_stand_twice() -> None:
    seen: dict[tuple[str, ...], set[tuple[Path, int]]] = defaultdict(set)
    total = 0
    for path in FILES:
        lines = [s for line in path.read_text().splitlines() if (s := line.strip())]
        total += len(lines)
        for i in range(len(lines) - 5):
            seen[tuple(lines[i:i + 6])].update((path, j) for j in range(i, i + 6))
    twice = {spot for window, spots in seen.items() if len(spots) > 6 for spot in spots}
    assert len(twice) < 0.02 * total, sorted({f"{place(p)}:{n}" for p, n in twice})[:20]


def test_only_the_ui_prints() -> None:
    for path in FILES:
        if place(path).startswith(("dbrun/ui/", "dbrun/embedded/")):
            continue
        calls = [n for n in ast.walk(tree_of(path))
                 if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print"]
        assert not calls, f"{place(path)} prints"
