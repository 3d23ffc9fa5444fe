"""Keys of all stages, as they were recorded: a result that is in somebody's store must still be found there.

`stage_keys.json` holds, for every recipe of `recipes/` and `unusual/`, the key of each stage and of its items, with
library versions and device pinned, and upstream digests replaced by a digest of the stage's name. A key changes only
together with a stage's VERSION: `python tests/house/regenerate.py` records it anew, and refuses otherwise.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from dbrun import library_versions
from dbrun.plan.cache_key import make_stage_key
from dbrun.recipe.load import load_recipe
from dbrun.resolve.sources import resolve_sources
from dbrun.stages.base import stages
from dbrun.stages.sources import Numerics
from dbrun.store.canonical import digest, to_json_value
from dbrun.store.store import Store

HERE = Path(__file__).parent
RECORD = HERE / "stage_keys.json"
OWN_FILE = "sdxl_single_file"
"""The recipe whose base is a file of the user's own: it has no cache key without that file."""
FOUND = [*(HERE.parents[1] / "recipes").glob("*.yaml"), *(HERE / "unusual").glob("*.yaml")]
RECIPES = sorted(path for path in FOUND if path.stem != OWN_FILE)
Table = dict[str, dict[str, dict[str, str | None]]]
"""Recipe -> stage -> what it is found by."""
PINNED = "1.2.3"
"""The version that every library is said to have."""


def keys(recipe: Path, store: Store) -> dict[str, dict[str, str | None]]:
    """Stage -> its key, its lineage, and a digest over the keys of its items."""
    loaded = load_recipe(recipe)
    resolved = resolve_sources(loaded, store)
    found = {}
    for name, stage in stages().items():
        if not stage.applies_to(loaded.recipe):
            continue
        numerics = Numerics("cpu", loaded.recipe.threads)
        params = stage.params(loaded.recipe, resolved.sources)
        present = [above for above in stage.needs if stages()[above].applies_to(loaded.recipe)]
        inputs = {above: hashlib.sha256(above.encode()).hexdigest() for above in present}
        asked = make_stage_key(stage, params, inputs, numerics)
        items = [digest(to_json_value(key)) for key in stage.item_keys(params, inputs, numerics)]
        found[name] = {"key": asked.key, "lineage": asked.resume_key,
                       "items": digest(to_json_value(items)) if items else None}
    return found


def current() -> Table:
    """The table of today's code."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(library_versions, "installed_version", lambda library: PINNED)
        store = Store(Path(folder))
        store.prepare()
        return {recipe.stem: keys(recipe, store) for recipe in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_result_of_an_earlier_version_is_found_again(recipe: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_versions, "installed_version", lambda library: PINNED)
    store = Store(tmp_path)
    store.prepare()
    recorded = json.loads(RECORD.read_text())
    assert keys(recipe, store) == recorded.get(recipe.stem), "run: python tests/house/regenerate.py"
