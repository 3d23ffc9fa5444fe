"""Is memory counted before a base is downloaded, and told apart from what its own files say?"""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import RECIPE, picture

from dbrun.models import published_bases
from dbrun.models.base import families
from dbrun.plan.memory import count_stages, known_counts
from dbrun.plan.planner import ALL_STAGES, Scope, make_scope
from dbrun.recipe.load import load_recipe
from dbrun.recipe.shipped import shipped_recipes
from dbrun.recipe.starter_bases import EMBEDDED, starter_base_at, starter_bases
from dbrun.resolve.sources import resolve_sources
from dbrun.store.store import Store

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def planned(folder: Path, *words: str) -> Scope:
    loaded, store = load_recipe(folder / "tiny.yaml", words), Store(folder / ".dbrun")
    store.prepare()
    return make_scope(loaded.recipe, resolve_sources(loaded, store), store, ALL_STAGES, None)


def test_memory_is_counted_once_without_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "pictures").mkdir()
    picture(tmp_path / "pictures" / "0.png", 60)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    written: list[str] = []

    def write(kind: str, folder: Path) -> None:
        written.append(kind)
        families()[kind].write_tiny_base(folder)

    monkeypatch.setattr(published_bases, "write_published_base", write)
    absent = planned(tmp_path, f"base.path={SD15}", f"base.revision={'0' * 40}")
    assert absent.resolved.sources.base.folder is None and not known_counts(absent)
    counts = count_stages(absent)
    assert counts["train"].total > 0 and written == ["sd"]
    # found by the next plan, which opens nothing
    assert known_counts(absent) == counts == count_stages(absent) and written == ["sd"]


def test_the_base_of_each_starter_is_that_of_its_recipe() -> None:
    for name, base in starter_bases().items():
        path = load_recipe(shipped_recipes()[base.recipe]).recipe.base.path
        assert path == (EMBEDDED if name == EMBEDDED else base.repository)
        assert name == EMBEDDED or starter_base_at(path) is base
    assert starter_base_at("owner/name") is None
