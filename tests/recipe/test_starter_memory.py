"""Do the settings of a starter recipe fit the card, by the bytes that are counted from the published configs?"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dbrun.models.published_bases import write_published_base
from dbrun.plan.memory import TargetDevice, count_stages, recipe_for
from dbrun.plan.planner import make_scope
from dbrun.plan.selection import Selection
from dbrun.recipe.load import load_recipe
from dbrun.recipe.new import StarterRequest, starter_recipe
from dbrun.recipe.starter_bases import EMBEDDED, starter_bases
from dbrun.resolve.sources import resolve_sources
from dbrun.store import digests
from dbrun.store.store import Store

CASES = [(base, card) for base, one in starter_bases().items() for card, _ in one.fits]
HOLLOW_BYTES = 2**26


@pytest.mark.slow
@pytest.mark.parametrize(("base", "card"), CASES)
def test_every_stage_fits(base: str, card: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest card of each setting; the number of pictures changes nothing on the card."""
    real = digests._digest

    def digest(file: Path, size: int) -> str:
        # to hash gigabytes of nothing takes minutes
        return hashlib.sha256(f"{file.name}{size}".encode()).hexdigest() if size > HOLLOW_BYTES else real(file, size)

    monkeypatch.setattr(digests, "_digest", digest)
    recipe_file = tmp_path / "mine.yaml"
    recipe_file.write_text(starter_recipe(StarterRequest("mine", base, memory=card)), encoding="utf-8")
    folder = tmp_path / "base"
    write_published_base(load_recipe(recipe_file).recipe.base.type, folder)
    loaded = load_recipe(recipe_file, [f"base.path={folder}", "base.revision=null", "base.variant=null"])
    target = TargetDevice("cuda", card * 2**30)
    store = Store(tmp_path / "store")
    store.prepare()
    scope = make_scope(recipe_for(loaded.recipe, target), resolve_sources(loaded, store), store, Selection(), None)
    for name, counted in count_stages(scope).items():
        if scope.stages[name].device_dependent:
            assert target.has_room(counted), f"{base} on {card} GB: {name} takes {counted.total / 2**30:.2f} GiB"


def test_every_base_of_a_starter_has_a_published_config() -> None:
    from dbrun.models.published_bases import FROM_PUBLISHED, PUBLISHED_BASES
    from dbrun.recipe.shipped import shipped_recipes

    for name, base in starter_bases().items():
        recipe = load_recipe(shipped_recipes()[base.recipe]).recipe
        assert name == EMBEDDED or recipe.base.type in {*PUBLISHED_BASES, *FROM_PUBLISHED}
