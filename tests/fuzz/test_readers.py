"""Every file format that dbrun reads, mutated: an answer or an error in words; no traceback, no hang, no raw output."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fork_server import run_dbrun
from fuzz_world import MUTANTS, World

from dbrun.errors import DbrunError
from dbrun.images.discover import list_pictures
from dbrun.options.captions import SIDECAR, Metadata
from dbrun.recipe.load import load_with_problems
from dbrun.resolve.sources import resolve_sources
from dbrun.safetensors_header import read_provenance
from dbrun.store.store import Store
from dbrun.ui.provenance import outline
from dbrun.use.adapter_files import find_adapter
from dbrun.use.bases import choose_base

QUICK, MANY, COMMANDS = 60, 20_000, 200
"""Mutants of each format: by default, in the slow set, and by the command line."""
MAX_SECONDS = 10.0
CAPTIONS = {"csv": Metadata(type="metadata"), "jsonl": Metadata(type="metadata"), "caption": SIDECAR}
"""Format of captions → the captions of a recipe that reads it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(autouse=True)
def _restored(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(world.folder)
    yield
    world.restore()


def read(kind: str, folder: Path, store: Store) -> None:
    """Read what the mutant stands in, as far as commands do before they load a base."""
    if kind in CAPTIONS:
        list_pictures(folder / "p", captions=CAPTIONS[kind])
        return
    overrides: tuple[str, ...] = ()
    recipe = folder / "r.yaml"
    if kind == "header":
        recipe, overrides = folder / "a.safetensors", ("subject.images=p", "base.path=base", "prior.images=p")
        outline(read_provenance(recipe))
        adapter = find_adapter(str(recipe))
        choose_base([adapter.document], str(folder / "base"), [adapter.place], store)
    loaded, problems = load_with_problems(recipe, overrides)
    resolve_sources(loaded, store, False, problems)


def attempt(kind: str, world: World, count: int) -> None:
    store = Store(world.folder / "store")
    refused = 0
    for seed in range(count):
        world.put(kind, random.Random(f"{kind} {seed}"))
        began = time.process_time()
        try:
            read(kind, world.folder, store)
        except DbrunError as error:
            assert str(error).strip(), f"{kind} {seed}"
            refused += 1
        except Exception as error:
            pytest.fail(f"{kind} {seed}: {type(error).__name__}: {str(error)[:300]}\n{_last_place(error)}")
        assert time.process_time() - began < MAX_SECONDS, f"{kind} {seed} took too long"
    assert refused > count // 20, "the mutants break nothing"


def _last_place(error: BaseException) -> str:
    trace, lines = error.__traceback__, []
    while trace is not None:
        lines.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    return "\n".join(lines[-6:])


@pytest.mark.parametrize("kind", MUTANTS)
def test_a_mutant_gives_an_answer_or_an_error_in_words(kind: str, world: World) -> None:
    attempt(kind, world, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MUTANTS)
def test_many_mutants_give_an_answer_or_an_error_in_words(kind: str, world: World) -> None:
    attempt(kind, world, MANY)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MUTANTS)
def test_a_command_that_reads_a_mutant_ends_in_words(kind: str, world: World) -> None:
    for seed in range(COMMANDS):
        world.put(kind, random.Random(f"command {kind} {seed}"))
        words = ["plan", "r.yaml"]
        if kind == "header":
            words = [["show", "a.safetensors"], ["plan", "a.safetensors", "subject.images=p"]][seed % 2]
        done = run_dbrun(words, cwd=world.folder, env={**os.environ, "NO_COLOR": "1"}, timeout=MAX_SECONDS * 3)
        text = done.stdout + done.stderr
        place = f"{kind} {seed}: {text[-400:]!r}"
        assert done.returncode in (0, 2), place
        assert "Traceback" not in text and "bug in dbrun" not in text, place
        raw = [char for char in text if (ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160]
        assert not raw, place
