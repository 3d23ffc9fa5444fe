"""Does no code but dbrun's own and its libraries' ever run, and is nothing read or written that could hold code?"""

import ast
from pathlib import Path

from package_source import FILES, ROOT, tree_of

CODE_IN_DATA = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
PICKLED = {("torch", "load"), ("torch", "save"), ("yaml", "load"),
           ("yaml", "unsafe_load"), ("yaml", "full_load"), ("os", "system"), ("os", "popen")}
MAKING_OF_THE_BASE = {"course.py"}
"""Where the embedded base is trained by its maintainers, torch.load reads with `weights_only` what it wrote itself."""


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]


def test_nothing_that_could_run_code_is_read_or_written() -> None:
    for path in FILES:
        nothing_runs_code(path)


def nothing_runs_code(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not CODE_IN_DATA & {name.split(".")[0] for name in names}, f"{path}:{node.lineno}"
    for call in calls(path):
        where, function = f"{path}:{call.lineno}", call.func
        if isinstance(function, ast.Name):
            assert function.id not in RUNS_TEXT, where
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            assert (function.value.id, function.attr) not in PICKLED or path.name in MAKING_OF_THE_BASE, where
        for word in call.keywords:
            truth = isinstance(word.value, ast.Constant) and word.value.value
            assert not (word.arg in ("trust_remote_code", "shell", "allow_pickle") and truth is not False), where
            assert not (word.arg in ("use_safetensors", "weights_only", "safe_serialization") and not truth), where


def test_loading_weights_asks_for_safetensors_and_no_network() -> None:
    """Every `from_pretrained` of a user's base or encoder; the others read what dbrun itself wrote."""
    files = [*(ROOT / "dbrun" / "models").glob("*.py"), *(ROOT / "dbrun" / "scores").glob("*.py")]
    found = [call for path in files for call in calls(path)
             if isinstance(call.func, ast.Attribute) and call.func.attr == "from_pretrained"]
    assert found
    for call in found:
        words = {word.arg: ast.unparse(word.value) for word in call.keywords}
        # neither a tokenizer nor an image processor has weights, but each may bring code of its own
        weightless = ast.unparse(call.func) in ("AutoTokenizer.from_pretrained", "AutoImageProcessor.from_pretrained")
        safe = {"trust_remote_code": "False"} if weightless else {"use_safetensors": "True"}
        assert {**words, **safe, "local_files_only": "True"} == words
