"""Do the adapters fit the layers that their targets select? Read from the headers of the base's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dbrun.adapters.attach import matching_names, no_match_error
from dbrun.adapters.base import Adapter
from dbrun.errors import RecipeError
from dbrun.events import Note
from dbrun.models.base import Family, families
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.text.spans import ProblemCollector
from dbrun.safetensors_header import tensor_shapes
from dbrun.stages.adapt import target_patterns
from dbrun.stages.sources import BaseSource

Shapes = Mapping[str, tuple[int, ...]]
WEIGHT_SUFFIX = ".weight"
ANY_MODULE = "Module"
"""The class of all modules, those too that hold others."""
EMBEDDING_SUFFIX = "embedding"
"""How the names of tables of vectors end, which are matrices as well, but no layers."""


def check_layers(recipe: Recipe, base: BaseSource, findings: ProblemCollector) -> tuple[Note, ...]:
    """What is odd about an adapter on this base. What cannot go on its layers, or finds none, is noted.

    Where the base is not here yet nothing is known; `adapt` refuses the same once it is.
    """
    if base.folder is None:
        return ()
    family, notes = families()[base.family], []
    for component, adapter in recipe.adapt.adapters.items():
        if component not in family.components:
            continue
        key, shapes = f"adapt.{component}", _weight_shapes(base.folder, family.components[component], base.files)
        chosen = findings.attempt(f"{key}.targets", _target_layers, family, component, adapter, shapes)
        if not chosen:
            continue
        if wrong := adapter.layer_problem(chosen):
            field, message, fix = wrong
            findings.add(f"{key}.{field}", message, fix)
        elif odd := adapter.layer_note(chosen):
            notes.append(Note(key, *odd))
    return tuple(notes)


def count_layers(family: Family, component: str, adapter: Adapter, base: BaseSource) -> tuple[int, Mapping[str, int]]:
    """How many layers the adapter's targets hit, and how many each preset would; 0 where that is not known."""
    shapes = _weight_shapes(base.folder, family.components[component], base.files) if base.folder else {}
    fit = _adaptable_layers(adapter, shapes)
    presets = {name: len(matching_names(fit, patterns)) for name, patterns in family.target_presets[component].items()}
    try:
        return len(_target_layers(family, component, adapter, shapes)), presets
    except RecipeError:
        return 0, presets


def _target_layers(family: Family, component: str, adapter: Adapter, shapes: Shapes) -> Shapes:
    """The layers that the adapter's targets hit. Raises RecipeError where some hit none."""
    fit, found = _adaptable_layers(adapter, shapes), set[str]()
    for patterns in target_patterns(family, component, adapter) if fit else ():
        if not (hit := matching_names(fit, patterns)):
            raise no_match_error(patterns, sorted(fit), adapter.layer_classes)
        found.update(hit)
    return {name: fit[name] for name in sorted(found)}


def _adaptable_layers(adapter: Adapter, shapes: Shapes) -> Shapes:
    """Those that the adapter can stand on: layers, or of one that takes any module all that hold a weight."""
    if ANY_MODULE in adapter.layer_classes:
        above = (name.split(".")[:-1] for name in shapes)
        return {".".join(parts[:n]): () for parts in above for n in range(1, len(parts) + 1)}
    return {name.removesuffix(WEIGHT_SUFFIX): shape for name, shape in shapes.items() if _is_layer_weight(name, shape)}


def _is_layer_weight(name: str, shape: tuple[int, ...]) -> bool:
    if not name.endswith(WEIGHT_SUFFIX) or len(shape) <= 1:
        return False
    return not name.removesuffix(WEIGHT_SUFFIX).endswith(EMBEDDING_SUFFIX)


def _weight_shapes(folder: Path, component: str, files: Iterable[str]) -> Shapes:
    """Name → shape of every weight, [out, in …] where it is that of a layer.

    files: the base's; of one from the Hub they are not known, and its variants have the same shapes.
    """
    here = [folder / file for file in files if file.startswith(f"{component}/")] or (folder / component).glob("*")
    return {name: shape for file in here for name, shape in _tensor_shapes(file)}


def _tensor_shapes(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    if file.suffix != ".safetensors":
        return
    try:
        yield from tensor_shapes(file).items()
    except (RecipeError, OSError):
        # `load` reads the weights and says what is wrong with them
        return
