"""Does every module import only what its layer may, and torch only where torch is at home?"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "dbrun").rglob("*.py"))
LAYERS = [["cli"], ["ui"], ["after"], ["plan"], ["store"], ["stages"], ["recipe"], ["formats"],
          ["families", "adapters", "choices"],
          ["parts", "errors", "events", "seeds", "durable", "secrets", "space", "columns", "values"]]
"""Upper to lower; a module imports from its own row and from those below."""
RANK = {name: i for i, row in enumerate(LAYERS) for name in row}
TORCH_AT_HOME = {"diffusion", "training"}
HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "safetensors", "rich", "omegaconf", "PIL"}


def room(path: Path) -> str:
    parts = path.relative_to(ROOT / "dbrun").parts
    return parts[0].removesuffix(".py")


def runs_later_or_never(node: ast.AST) -> bool:
    """Whether importing the module does not run this node: a function's body, or a block for type checkers."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def imports(tree: ast.AST, *, top_only: bool) -> list[str]:
    """Modules imported; with top_only those at module level that really run (TYPE_CHECKING blocks left out)."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(a.name for a in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                found.append(child.module)
                found.extend(f"{child.module}.{a.name}" for a in child.names)
            elif not (top_only and runs_later_or_never(child)):
                visit(child)

    visit(tree)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_imports_from_a_layer_above(path: Path) -> None:
    here = RANK.get(room(path))
    if here is None:
        return
    for name in imports(ast.parse(path.read_text()), top_only=False):
        parts = name.split(".")
        if parts[0] == "dbrun" and len(parts) > 1 and parts[1] in RANK:
            assert RANK[parts[1]] >= here, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_and_their_rooms_load_late(path: Path) -> None:
    home = room(path)
    if home in TORCH_AT_HOME or home == "embedded":
        return
    for name in imports(ast.parse(path.read_text()), top_only=True):
        assert name.split(".")[0] not in HEAVY, f"{path.relative_to(ROOT)} imports {name} at its top"
        for room_name in TORCH_AT_HOME:
            assert not name.startswith(f"dbrun.{room_name}"), f"{path.relative_to(ROOT)} imports {name} at its top"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_stages_run_reaches_for_training(path: Path) -> None:
    if room(path) in TORCH_AT_HOME | {"after", "stages", "formats", "families", "embedded"}:
        return
    for name in imports(ast.parse(path.read_text()), top_only=False):
        assert not name.startswith("dbrun.training"), f"{path.relative_to(ROOT)} imports {name}"
