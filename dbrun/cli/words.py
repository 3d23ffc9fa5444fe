"""Which recipe and which overrides the words of a command line mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import UsageError

if TYPE_CHECKING:
    from dbrun.store.store import Store


def split(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The recipe, if one is named, and the `key=value` overrides.

    Raises UsageError for more than one recipe or a word that is neither.
    """
    overrides = [w for w in words if "=" in w and not Path(w).is_file()]
    recipes = [w for w in words if w not in overrides]
    if len(recipes) > 1:
        raise UsageError(f"one recipe at a time; found {', '.join(recipes)}",
                         fix="an override is written key=value, such as train.steps=400")
    return (Path(recipes[0]) if recipes else None), overrides


def at_hand(store: Store) -> tuple[Path, list[str], str]:
    """The recipe meant where none is named, its overrides, and how it was chosen.

    The recipe last run here, with the overrides that it was run with; else the only file in `recipes/`.
    """
    from dbrun.plan.runner import last_run

    last = last_run(store)
    if last is not None and Path(last.path).is_file():
        return Path(last.path), list(last.overrides), "the recipe last run here"
    found = sorted(p for p in Path("recipes").glob("*.y*ml") if p.suffix in (".yaml", ".yml"))
    if len(found) == 1:
        return found[0], [], "the only file in recipes/"
    if not found:
        raise UsageError("no recipe is named, none was run here, and there is none in recipes/",
                         fix="dbrun new NAME writes one")
    raise UsageError(f"no recipe is named; here are {', '.join(map(str, found))}",
                     fix=f"name one, such as {found[0]}")
