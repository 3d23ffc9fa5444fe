"""Which adapter does `adapt.<component>.init` name, and can it be what the recipe says? Read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dbrun.adapters.base import Adapter
from dbrun.errors import RecipeError
from dbrun.families.base import Family
from dbrun.formats.base import formats
from dbrun.recipe.words import one_of
from dbrun.store.disk import said
from dbrun.store.store import Store
from dbrun.values import dataclass


@dataclass(frozen=True)
class FoundAdapter:
    """An adapter by its contents. identity: as in `Sources.inits`; files: digest -> a file with it."""

    identity: str
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Wanted:
    """What an adapter is to be started for. beside: where a relative path begins."""

    family: Family
    component: str
    adapter: Adapter
    beside: Path


def find_adapter(path: str, wanted: Wanted, store: Store) -> FoundAdapter:
    """The adapter at a path. Raises RecipeError where it is none of the wanted type and component."""
    place = wanted.beside / Path(path).expanduser()
    try:
        for form in (form for form in formats().values() if form.ASKED):
            if (files := form.found(place)) is not None:
                _check_type(form.holds(files, wanted.family, wanted.component), place, wanted.adapter)
                digests = [store.digests.of(file) for file in files]
                return FoundAdapter(f"{form.NAME}:{'+'.join(digests)}", dict(zip(digests, files, strict=True)))
    except OSError as error:
        raise said(error, f"reading the adapter {place}") from error
    what = "is no adapter" if place.exists() else "is not there"
    asked = one_of([form.ASKED for form in formats().values() if form.ASKED])
    raise RecipeError(f"{place} {what}", fix=f"name {asked}")


def _check_type(found: str, place: Path, adapter: Adapter) -> None:
    if found != adapter.NAME:
        raise RecipeError(f"{place} is an adapter of type {found}, but the recipe says `type: {adapter.NAME}`",
                          fix=f"write `type: {found}`, or name another adapter")
