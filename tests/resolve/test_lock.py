"""Does a lock hold exactly as long as a recipe points at the same contents?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_base import fake_base, fake_cache
from PIL import Image
from stub_world import RECIPE

from dbrun.errors import UsageError, WorkPending
from dbrun.recipe.load import LoadedRecipe, load_recipe
from dbrun.resolve.lock import drift, enforce_lock, write_lock
from dbrun.resolve.sources import ResolvedSources, resolve_sources
from dbrun.store.store import Store


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    fake_base(tmp_path / "base")
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.new("RGB", (64, 64), (40 * i, 9, 9)).save(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "r.yaml").write_text(RECIPE.replace("path: embedded", "path: base"))
    return Path("r.yaml")


def found(recipe: Path) -> tuple[LoadedRecipe, ResolvedSources]:
    loaded = load_recipe(recipe)
    return loaded, resolve_sources(loaded, Store(Path("store")))


def test_a_lock_stands_beside_its_recipe_and_holds(recipe: Path) -> None:
    target, new = write_lock(*found(recipe))
    assert (target.name, new, write_lock(*found(recipe))[1]) == ("r.lock", True, False)
    assert drift(*found(recipe)) == []
    assert sorted(p.name for p in Path().iterdir()) == ["base", "pictures", "r.lock", "r.yaml"]


@pytest.mark.parametrize(("change", "told"), [
    (lambda: Image.new("RGB", (64, 64)).save("pictures/0.png"), ["picture 0.png", "is not in the lock"]),
    (lambda: Path("pictures/0.png").unlink(), ["picture 0.png", "is in the lock, but not here"]),
    (lambda: Path("pictures/1.txt").write_text("sks dog, asleep"), ["picture 1.png", "sks dog, asleep"]),
    (lambda: Path("base/unet/diffusion_pytorch_model.safetensors").write_text("x"), ["base: files:", "→ files:"]),
])
def test_what_changes_is_told(recipe: Path, change: Callable[[], object], told: list[str]) -> None:
    write_lock(*found(recipe))
    change()
    lines = "\n".join(drift(*found(recipe)))
    for words in told:
        assert words in lines


def test_a_run_is_refused_with_what_differs_and_not_with_a_thousand_lines(recipe: Path) -> None:
    write_lock(*found(recipe))
    enforce_lock(*found(recipe))
    for i in range(20):
        Image.new("RGB", (64, 64), (i, 99, 9)).save(f"pictures/more{i:02d}.png")
    with pytest.raises(WorkPending, match=r"r\.yaml does not match r\.lock; nothing was run") as caught:
        enforce_lock(*found(recipe))
    lines = caught.value.message.splitlines()
    assert [line.split()[1] for line in lines[1:-1]] == [f"more{i:02d}.png" for i in range(12)]
    assert lines[-1] == "  and 8 more, which `dbrun plan --locked` lists"


def test_names_and_the_recipe_itself_are_free(recipe: Path) -> None:
    write_lock(*found(recipe))
    Path("pictures/0.png").rename("pictures/z.png")
    recipe.write_text(recipe.read_text().replace("rank: 4", "rank: 8"))
    assert drift(*found(recipe)) == []


def test_a_branch_is_locked_to_its_commit(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(Path("hub").absolute()))
    recipe.write_text(recipe.read_text().replace("path: base", "path: owner/name, revision: main"))
    with pytest.raises(UsageError, match="the commit of revision main is not known"):
        write_lock(*found(recipe))
    fake_cache(Path("hub").absolute(), "a" * 40, {"main": "a" * 40})
    write_lock(*found(recipe))
    assert f"hub:owner/name@{'a' * 40}" in Path("r.lock").read_text()
    (Path("hub") / "models--owner--name" / "refs" / "main").write_text("b" * 40)
    assert [line.partition(":")[0] for line in drift(*found(recipe))] == ["base"]


def test_no_lock_and_a_broken_one_say_what_to_type(recipe: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no lock r\.lock") as caught:
        drift(*found(recipe))
    assert caught.value.fix == "dbrun lock r.yaml"
    for text in ("", "{}", "[]", '{"format_version": 1}', '{"format_version": 9}'):
        Path("r.lock").write_text(text)
        with pytest.raises(UsageError, match="cannot be read"):
            drift(*found(recipe))
