"""Is a base in a folder found again by its content: after a move, and not after a change?"""

import json
import shutil
from pathlib import Path

import pytest

from dbrun.errors import UsageError
from dbrun.recipe.schema.model import Base
from dbrun.resolve.base import find_base
from dbrun.store.store import Store
from dbrun.use.bases import choose_base


@pytest.fixture
def home(world, tmp_path, monkeypatch) -> Path:
    """A folder with a base, and a delivery that records its path."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world.home / "base", tmp_path / "base")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "dbrun.json").write_text(json.dumps({"recipe": {"base": {"path": "base"}}}))
    return tmp_path


def find(path: Path, store: Store) -> str:
    """Identity of the base in a folder, as a run finds it."""
    return find_base(Base(path=str(path)), Path(), store).source.identity


def test_a_base_is_found_where_it_lies_by_its_content(home) -> None:
    store = Store(home / "store")
    document = {"recipe": {"base": {"type": "sd", "identity": find(home / "base", store), "variant": None}}}
    delivery, elsewhere = home / "outputs" / "dog.safetensors", home / "else" / "dog.safetensors"
    assert choose_base([document], None, [delivery], Store(home / "other"))[0].folder.resolve() == home / "base"
    assert choose_base([document], None, [elsewhere], store)[0].folder == home / "base", "the store knows it"
    with pytest.raises(UsageError, match="no record names its path"):
        choose_base([document], None, [elsewhere], Store(home / "other"))

    (home / "base").rename(home / "moved")
    with pytest.raises(UsageError, match=r"base, where it was, holds it no longer\n.*--base FOLDER"):
        choose_base([document], None, [elsewhere], store)
    found, notes = choose_base([document], str(home / "moved"), [elsewhere], store)
    assert found.folder == home / "moved" and not notes
    assert choose_base([document], None, [elsewhere], store)[0].folder == home / "moved", "once named, known"

    scheduler = home / "moved" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("0.012", "0.013"))
    with pytest.raises(UsageError, match="moved, where it was, holds another one now"):
        choose_base([document], None, [elsewhere], store)
    _, notes = choose_base([document], str(home / "moved"), [elsewhere], store)
    assert "trained on another base" in notes[0]
