"""Has the code behind a stage changed without a word on whether its results did?

`stage_code.json` holds, per stage, the VERSION and a hash of the syntax trees of the modules that make its output
(comments, docstrings and layout do not count). When this fails, either raise the stage's VERSION, because the same
params and inputs now give other bytes, or decide that they do not; then record the decision with
`python tests/house/regenerate.py`.
"""

import ast
import hashlib
import importlib.util
import json
from pathlib import Path

from dbrun.stages.base import Stage, stages

RECORD = Path(__file__).with_name("stage_code.json")
COMMAND = "python tests/house/regenerate.py"
Record = dict[str, dict[str, object]]
"""Stage -> its VERSION, and the hash of its code."""


def source(module: str) -> list[Path]:
    """The files of a module, or of a whole package."""
    spec = importlib.util.find_spec(module)
    assert spec and spec.origin, module
    path = Path(spec.origin)
    return sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]


def without_words(tree: ast.Module) -> str:
    """The tree without docstrings: a better word is not another result."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)
                                                 and isinstance(n.value.value, str))]
    return ast.dump(tree)


def code_hash(stage: Stage) -> str:
    digest = hashlib.sha256()
    for module in (type(stage).__module__, *stage.modules):
        for path in source(module):
            digest.update(without_words(ast.parse(path.read_text())).encode())
    return digest.hexdigest()[:16]


def current() -> Record:
    return {name: {"version": stage.VERSION, "code": code_hash(stage)} for name, stage in sorted(stages().items())}


def unversioned(old: Record, new: Record) -> list[str]:
    """The stages whose code changed under the same VERSION, so that their stored results stay in use."""
    return [name for name, entry in new.items()
            if name in old and old[name]["version"] == entry["version"] and old[name]["code"] != entry["code"]]


def test_every_change_of_a_stages_code_is_decided() -> None:
    recorded = json.loads(RECORD.read_text())
    now = current()
    assert set(now) == set(recorded), f"run: {COMMAND}"
    assert unversioned(recorded, now) == [], (
        f"the code of these stages changed: raise a stage's VERSION if its results change; then run {COMMAND}")
    for name, entry in now.items():
        assert entry == recorded[name], f"{name}: record the new version: {COMMAND}"


def test_a_docstring_changes_nothing_and_a_number_does() -> None:
    plain, worded, other = (without_words(ast.parse(t)) for t in
                            ("def f():\n  return 1", "def f():\n  'words'\n  return 1", "def f():\n  return 2"))
    assert plain == worded != other


def test_only_a_change_without_a_new_version_is_told() -> None:
    old: Record = {"a": {"version": 1, "code": "x"}, "b": {"version": 1, "code": "x"}, "c": {"version": 1, "code": "x"}}
    new: Record = {"a": {"version": 1, "code": "y"}, "b": {"version": 2, "code": "y"}, "c": {"version": 1, "code": "x"},
                   "d": {"version": 1, "code": "y"}}
    assert unversioned(old, new) == ["a"]
