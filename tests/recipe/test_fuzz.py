"""Does anything at all that stands in a file or on the command line give a recipe or a DbrunError, and do nothing?"""

from __future__ import annotations

import ctypes
import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nothing_done import nothing_done
from wrong_recipes import GOOD

from dbrun.errors import DbrunError
from dbrun.recipe.load import load_recipe, load_with_problems
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.text.spans import Span
from dbrun.resolve.sources import resolve_sources
from dbrun.store.store import Store

WORDS = ["train", "steps", "adapt", "denoiser", "type", "lora", "schedule", "cosine", "targets", "base", "prior",
         "export", "peft", "extends", "r.yaml", "${train.steps}", "${", "\\${", "}", "*a", "&a", "!!x", "<<", "? ",
         "- ", ": ", "\t", "\n", "\n  ", "{", "[", "]", "'", '"', "#", "|", ">", "null", "1e-4", "9" * 400, "-",
         "é", "\u2028", "\x00"]
KEYS = ["base", "subject", "prior", "images", "adapt", "train", "samples", "export", "extends", "zz"]
DOTTED = ["train.steps", "name", "adapt", "adapt.denoiser", "train.schedule", "export", "base.path", "a.b.c"]
STORE = Store(Path("nowhere"))
"""One that is never made; it knows what it has read once."""
MANY = int(os.environ.get("DBRUN_FUZZ", "300"))
"""Inputs of each kind; the slow set takes 20,000 of each, 100,000 in all."""
QUICK = settings(max_examples=MANY, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WORD = st.sampled_from(WORDS) | st.text(max_size=8)
TREES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | WORD,
                     lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORD, inner, max_size=5),
                     max_leaves=20)
OVERRIDE = st.builds("=".join, st.tuples(st.sampled_from(DOTTED) | WORD, WORD)) | WORD


@pytest.fixture(scope="module", autouse=True)
def _libraries_that_read_pictures_and_prompts(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("known") / "r.yaml"
    file.write_text(GOOD)
    resolve_sources(load_recipe(file, [f"subject.instance_prompt={'dog ' * 90}"]), STORE)
    # the excerpt of a problem's line imports rich, and outside ASCII its table of widths
    Span(file, 1, 1, 1, "犬").excerpt()


def attempt(folder: Path, data: bytes, *overrides: str) -> None:
    """Load, and look at what it names; whatever else than a DbrunError comes out fails the test by itself.

    So does whatever is done.
    """
    file = folder / "r.yaml"
    file.write_bytes(data)
    with nothing_done():
        try:
            loaded, wrong = load_with_problems(file, overrides)
            assert isinstance(loaded.recipe, Recipe)
            resolve_sources(loaded, STORE, False, wrong)
        except DbrunError as error:
            assert str(error)
        else:
            assert not wrong, "what is known to be wrong is told"


@QUICK
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    attempt(tmp_path, data)


@QUICK
@given(st.lists(WORD, max_size=25))
def test_any_words_of_the_language(tmp_path: Path, words: list[str]) -> None:
    attempt(tmp_path, "".join(words).encode("utf-8", "surrogatepass"))


@QUICK
@given(TREES, st.sampled_from(KEYS))
def test_any_tree_under_any_key(tmp_path: Path, good: str, tree: object, key: str) -> None:
    below = yaml.safe_dump({key: tree}, allow_unicode=True)
    inside = yaml.safe_dump({**yaml.safe_load(good), key: tree}, allow_unicode=True)
    attempt(tmp_path, f"{good}\n{below}".encode("utf-8", "replace"))
    attempt(tmp_path, inside.encode("utf-8", "replace"))


@QUICK
@given(st.integers(0, 420), st.integers(0, 12), WORD)
def test_any_small_change_of_a_good_recipe(tmp_path: Path, good: str, start: int, cut: int, put: str) -> None:
    attempt(tmp_path, (good[:start] + put + good[start + cut:]).encode("utf-8", "surrogatepass"))


@QUICK
@given(st.lists(OVERRIDE, max_size=4))
def test_any_override(tmp_path: Path, good: str, overrides: list[str]) -> None:
    attempt(tmp_path, good.encode(), *overrides)


PLANTED = {
    "a program": lambda: subprocess.run(["true"]), "a shell": lambda: os.system("true"),
    "another program in place": lambda: sys.audit("os.exec", "true", ["true"], None),
    "a copy of the process": lambda: sys.audit("os.fork"),
    "a new file": lambda: Path("new").write_text("x"), "more of a file": lambda: Path("new").open("a").close(),
    "a file by its flags": lambda: os.close(os.open("new", os.O_CREAT | os.O_WRONLY)),
    "a file gone": lambda: Path("there").unlink(), "a folder": lambda: Path("folder").mkdir(),
    "a connection": lambda: socket.socket().connect_ex(("127.0.0.1", 9)),
    "a name looked up": lambda: socket.getaddrinfo("localhost", 80),
    "a module": lambda: importlib.import_module("planted"), "a module of dbrun": lambda: find_own("dbrun.options.evil"),
    "code in text": lambda: eval("1 + 1"), "a variable": lambda: os.environ.update(PLANTED="1"),
    "a library": lambda: ctypes.CDLL(None),
}


def find_own(name: str) -> None:
    with suppress(ImportError):
        __import__(name)


@pytest.mark.parametrize("what", PLANTED)
def test_the_guard_sees_whatever_is_done(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PLANTED", "0")
    (tmp_path / "planted.py").touch()
    (tmp_path / "there").touch()
    with pytest.raises(AssertionError, match="what was done: "), nothing_done():
        PLANTED[what]()
    sys.modules.pop("planted", None)


@pytest.mark.parametrize("text", ['a: !!python/object/apply:os.system ["true"]', "!!python/object/apply:eval ['1']",
                                  'a: !!python/object/apply:subprocess.Popen [["true"]]', "a: !!python/module:planted",
                                  "a: !!python/object/apply:os.mkdir [new]"])
def test_a_loader_that_did_what_a_file_says_would_be_caught(text: str, tmp_path: Path, good: str,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "planted.py").touch()
    attempt(tmp_path, text.encode())

    def careless(file: Path, overrides: Sequence[str]) -> object:
        yaml.unsafe_load(file.read_bytes())
        return real(file, overrides)

    real = load_with_problems
    monkeypatch.setattr(sys.modules[__name__], "load_with_problems", careless, raising=True)
    with pytest.raises(AssertionError, match="what was done: "):
        attempt(tmp_path, text.encode())
    sys.modules.pop("planted", None)


@pytest.mark.slow
def test_a_hundred_thousand_inputs_neither_crash_nor_hang_nor_fill_the_memory() -> None:
    # the peak of that process alone: what the system counts for children holds those of earlier tests, too
    program = ("import re, sys, pytest\nfrom pathlib import Path\ncode = pytest.main(sys.argv[1:])\n"
               "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\nsys.exit(code)\n")
    done = subprocess.run([sys.executable, "-c", program, __file__, "-q", "-n", "0", "-p", "no:cacheprovider"],
                          env={**os.environ, "DBRUN_FUZZ": "20000"}, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(done.stdout.split()[-1]) < 1 << 20, "over 1 GiB"
