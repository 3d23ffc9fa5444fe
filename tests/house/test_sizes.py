"""Do files and functions stay small, and does nobody repeat themselves?"""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "dbrun").rglob("*.py"))
BANNED = {"utils", "helpers", "common", "manager", "handler", "misc"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_short_documented_and_well_named(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    assert not BANNED & set(path.stem.split("_"))
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "the first line says which question the file answers"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_function_fits_on_a_screen_and_public_ones_are_explained(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is {node.end_lineno - node.lineno + 1} lines"
    public = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]
    public += [m for c in public if isinstance(c, ast.ClassDef) for m in c.body
               if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
    for node in public:
        assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_less_than_two_percent_of_the_lines_stand_twice() -> None:
    seen: dict[tuple[str, ...], set[tuple[Path, int]]] = defaultdict(set)
    total = 0
    for path in FILES:
        lines = [s for line in path.read_text().splitlines() if (s := line.strip())]
        total += len(lines)
        for i in range(len(lines) - 5):
            seen[tuple(lines[i:i + 6])].update((path, j) for j in range(i, i + 6))
    twice = {spot for window, spots in seen.items() if len(spots) > 6 for spot in spots}
    assert len(twice) < 0.02 * total, sorted({f"{p.relative_to(ROOT)}:{n}" for p, n in twice})[:20]


def test_only_the_ui_prints() -> None:
    for path in FILES:
        if path.relative_to(ROOT / "dbrun").parts[0] in ("ui", "embedded"):
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text()))
                 if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print"]
        assert not calls, f"{path.relative_to(ROOT)} prints"
