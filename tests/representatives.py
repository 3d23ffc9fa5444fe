"""Cases of the default set, which stand for the others of their kind: those are marked slow."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import pytest

from dbrun.models.base import Family, families


def kind_of(family: Family) -> Hashable:
    """What makes a family another kind for the code that is common to all: space, process, start image."""
    return family.autoencoder is None, family.process, family.start_image_reason is None


def representatives(names: Iterable[str] | None = None) -> set[str]:
    """Name of the family with the fewest components of each kind, of all or of these; of several, the first by name."""
    known, first = families(), dict[Hashable, str]()
    for name in sorted(known if names is None else names, key=lambda name: (len(known[name].components), name)):
        first.setdefault(kind_of(known[name]), name)
    return set(first.values())


def family_cases(names: Iterable[str] | None = None) -> list[Any]:
    """Parameters, one for the name of each family, of all or of these; a family that represents no kind is slow."""
    wanted = sorted(families() if names is None else names)
    usual = representatives(wanted)
    return [pytest.param(name, id=name, marks=() if name in usual else pytest.mark.slow) for name in wanted]


def cases(values: Iterable[Any], *usual: int) -> list[Any]:
    """Parameters, one for each value; those whose places are not in `usual` are marked slow."""
    return [value if place in usual else pytest.param(value, marks=pytest.mark.slow)
            for place, value in enumerate(values)]
