"""Do the adapters fit the layers that their targets select? Read from the headers of the base's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dbrun.adapters.attach import hits, no_match
from dbrun.adapters.base import Adapter
from dbrun.errors import RecipeError
from dbrun.events import Note
from dbrun.models.base import Family, families
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.text.spans import Findings
from dbrun.safetensors_header import shapes as shapes_in
from dbrun.stages.adapt import patterns_of
from dbrun.stages.base import BaseSource

Shapes = Mapping[str, tuple[int, ...]]
WEIGHT = ".weight"
MODULE = "Module"
"""The class of all modules, those too that hold others."""
TABLE = "embedding"
"""How the names of tables of vectors end, which are matrices as well, but no layers."""


def check_layers(recipe: Recipe, base: BaseSource, findings: Findings) -> tuple[Note, ...]:
    """What is odd about an adapter on this base. What cannot go on its layers, or finds none, is noted.

    Where the base is not here yet nothing is known; `adapt` refuses the same once it is.
    """
    if base.folder is None:
        return ()
    family, notes = families()[base.family], []
    for component, adapter in recipe.adapt.adapters.items():
        if component not in family.components:
            continue
        key, shapes = f"adapt.{component}", _shapes(base.folder, family.components[component], base.files)
        chosen = findings.attempt(f"{key}.targets", _chosen, family, component, adapter, shapes)
        if not chosen:
            continue
        if wrong := adapter.misfit(chosen):
            field, message, fix = wrong
            findings.add(f"{key}.{field}", message, fix)
        elif odd := adapter.remark(chosen):
            notes.append(Note(key, *odd))
    return tuple(notes)


def count_layers(family: Family, component: str, adapter: Adapter, base: BaseSource) -> tuple[int, Mapping[str, int]]:
    """How many layers the adapter's targets hit, and how many each preset would; 0 where that is not known."""
    shapes = _shapes(base.folder, family.components[component], base.files) if base.folder else {}
    fit = _fitting(adapter, shapes)
    presets = {name: len(hits(fit, patterns)) for name, patterns in family.presets[component].items()}
    try:
        return len(_chosen(family, component, adapter, shapes)), presets
    except RecipeError:
        return 0, presets


def _chosen(family: Family, component: str, adapter: Adapter, shapes: Shapes) -> Shapes:
    """The layers that the adapter's targets hit. Raises RecipeError where some hit none."""
    fit, found = _fitting(adapter, shapes), set[str]()
    for patterns in patterns_of(family, component, adapter) if fit else ():
        if not (hit := hits(fit, patterns)):
            raise no_match(patterns, sorted(fit), adapter.layers)
        found.update(hit)
    return {name: fit[name] for name in sorted(found)}


def _fitting(adapter: Adapter, shapes: Shapes) -> Shapes:
    """Those that the adapter can stand on: layers, or of one that takes any module all that hold a weight."""
    if MODULE in adapter.layers:
        above = (name.split(".")[:-1] for name in shapes)
        return {".".join(parts[:n]): () for parts in above for n in range(1, len(parts) + 1)}
    return {name.removesuffix(WEIGHT): shape for name, shape in shapes.items() if _of_a_layer(name, shape)}


def _of_a_layer(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(WEIGHT) and len(shape) > 1 and not name.removesuffix(WEIGHT).endswith(TABLE)


def _shapes(folder: Path, component: str, files: Iterable[str]) -> Shapes:
    """Name → shape of every weight, [out, in …] where it is that of a layer.

    files: the base's; of one from the Hub they are not known, and its variants have the same shapes.
    """
    here = [folder / file for file in files if file.startswith(f"{component}/")] or (folder / component).glob("*")
    return {name: shape for file in here for name, shape in _tensors(file)}


def _tensors(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    if file.suffix != ".safetensors":
        return
    try:
        yield from shapes_in(file).items()
    except (RecipeError, OSError):
        # `load` reads the weights and says what is wrong with them
        return
