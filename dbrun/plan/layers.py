"""Do the adapters fit the layers that their targets select? Read from the headers of the base's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dbrun.adapters.attach import hits
from dbrun.errors import RecipeError
from dbrun.events import Note
from dbrun.families.base import families
from dbrun.provenance import header
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.places import Problem, Problems
from dbrun.stages.adapt import patterns_of
from dbrun.stages.base import BaseSource

Shapes = Mapping[str, tuple[int, ...]]
WEIGHT = ".weight"
TABLE = "embedding"
"""How the names of tables of vectors end, which are matrices as well, but no layers."""


def check_layers(loaded: LoadedRecipe, base: BaseSource) -> tuple[Note, ...]:
    """What is odd about an adapter on this base. Raises Problems where one cannot go on its layers.

    Where the base is not here yet nothing is known; `adapt` refuses the same once it is.
    """
    if base.folder is None:
        return ()
    family, found, notes = families()[base.family], [], []
    for component, adapter in loaded.recipe.adapt.adapters.items():
        if component not in family.components:
            continue
        shapes = _shapes(base.folder, family.components[component], base.files)
        chosen = [name for group in patterns_of(family, component, adapter) for name in hits(shapes, group)]
        here = {name: shapes[name] for name in sorted(set(chosen))}
        if here and (wrong := adapter.misfit(here)):
            field, message, fix = wrong
            key = f"adapt.{component}.{field}"
            place = loaded.origins.get(key) or loaded.origins.get(f"adapt.{component}")
            found.append(Problem(place, key, message, fix))
        elif here and (odd := adapter.remark(here)):
            notes.append(Note(f"adapt.{component}", *odd))
    if found:
        raise Problems(found)
    return tuple(notes)


def _shapes(folder: Path, component: str, files: Iterable[str]) -> Shapes:
    """Layer → the shape of its weight, [out, in …], of all layers that an adapter may stand on.

    files: the base's; of one from the Hub they are not known, and its variants have the same shapes.
    """
    here = [folder / file for file in files if file.startswith(f"{component}/")] or (folder / component).glob("*")
    return {name.removesuffix(WEIGHT): shape for file in here for name, shape in _tensors(file)
            if name.endswith(WEIGHT) and len(shape) > 1 and not name.removesuffix(WEIGHT).endswith(TABLE)}


def _tensors(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    if file.suffix != ".safetensors":
        return
    try:
        tensors = header(file).tensors
    except (RecipeError, OSError):
        # `load` reads the weights and says what is wrong with them
        return
    yield from ((name, tuple(tensor["shape"])) for name, tensor in tensors.items())
