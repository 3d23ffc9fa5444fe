"""Layers that the targets of adapters select, read from the headers of the base's weights, and checks on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from dbrun.adapters.adapter_layers import target_patterns
from dbrun.adapters.attach import matching_names, no_match_error
from dbrun.adapters.base import Adapter
from dbrun.errors import RecipeError
from dbrun.events import Note
from dbrun.models.base import Family, families
from dbrun.models.ldm_layouts import CHECKPOINT
from dbrun.models.ldm_names import checkpoint_shapes
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.text.spans import ProblemCollector
from dbrun.safetensors_header import tensor_shapes
from dbrun.stages.sources import BaseSource

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a layer or weight → shape of its weight, `[out, in, …]`."""
WEIGHT_SUFFIX = ".weight"
ANY_MODULE = "Module"
"""Layer class of adapters that can wrap any module, also one that contains others."""
EMBEDDING_SUFFIX = "embedding"
"""End of the names of embedding tables: their weights are matrices too, but they are no layers for adapters."""


def check_layers(recipe: Recipe, base: BaseSource, findings: ProblemCollector) -> tuple[Note, ...]:
    """Check the adapters against the layers of the base. Adds problems to findings and returns notes.

    Finds nothing while the base is not here; `adapt` refuses the same problems later.
    """
    if base.folder is None:
        return ()
    family, notes = families()[base.family], []
    for component, adapter in recipe.adapt.adapters.items():
        if component not in family.components:
            continue
        key = f"adapt.{component}"
        shapes = _weight_shapes(base.folder, family, component, base.files)
        chosen = findings.attempt(f"{key}.targets", _target_layers, family, component, adapter, shapes)
        # None: no layer matches, which is a problem already; empty: the weights cannot be read here
        if not chosen:
            continue
        problem = adapter.layer_problem(chosen)
        if problem is not None:
            field, message, fix = problem
            findings.add(f"{key}.{field}", message, fix)
            continue
        note = adapter.layer_note(chosen)
        if note is not None:
            text, level = note
            notes.append(Note(key, text, level))
    return tuple(notes)


def adapted_layers(recipe: Recipe, base: BaseSource) -> Mapping[str, tuple[str, ...]]:
    """Component → full names of the layers that its adapter is put on; a component that is not known is left out."""
    layers: dict[str, tuple[str, ...]] = {}
    family = families()[base.family]
    for component, adapter in recipe.adapt.adapters.items():
        if base.folder is None or component not in family.components:
            continue
        shapes = _weight_shapes(base.folder, family, component, base.files)
        # checked before: a pattern without a layer is a problem of the recipe
        with suppress(RecipeError):
            layers[component] = tuple(_target_layers(family, component, adapter, shapes))
    return {component: names for component, names in layers.items() if names}


def count_layers(family: Family, component: str, adapter: Adapter, base: BaseSource) -> tuple[int, Mapping[str, int]]:
    """Number of layers that the adapter's targets match, and target preset → number it would match; 0 if not known."""
    shapes = _weight_shapes(base.folder, family, component, base.files) if base.folder else {}
    fit = _adaptable_layers(adapter, shapes)
    presets = {name: len(matching_names(fit, patterns)) for name, patterns in family.target_presets[component].items()}
    try:
        return len(_target_layers(family, component, adapter, shapes)), presets
    except RecipeError:
        return 0, presets


def layer_names(family: Family, component: str, adapter: Adapter, base: BaseSource) -> tuple[str, ...]:
    """Names of all layers of a component that the adapter can wrap; empty while the base is not here."""
    if base.folder is None:
        return ()
    return tuple(_adaptable_layers(adapter, _weight_shapes(base.folder, family, component, base.files)))


def _target_layers(family: Family, component: str, adapter: Adapter, shapes: Shapes) -> Shapes:
    """Layers that the adapter's targets match, sorted. Raises RecipeError if one group of patterns matches none."""
    fit = _adaptable_layers(adapter, shapes)
    # no weight could be read: nothing can be said about the patterns
    if not fit:
        return {}
    chosen: set[str] = set()
    for patterns in target_patterns(family, component, adapter):
        matching = matching_names(fit, patterns)
        if not matching:
            raise no_match_error(patterns, sorted(fit), adapter.layer_classes)
        chosen.update(matching)
    return {name: fit[name] for name in sorted(chosen)}


def _adaptable_layers(adapter: Adapter, shapes: Shapes) -> Shapes:
    """Layers that the adapter can wrap; for an adapter that can wrap any module, all modules that contain a weight."""
    if ANY_MODULE in adapter.layer_classes:
        # `a.b.weight` belongs to the modules `a` and `a.b`, which have no shape of their own
        modules: dict[str, tuple[int, ...]] = {}
        for name in shapes:
            parts = name.split(".")[:-1]
            for depth in range(1, len(parts) + 1):
                modules[".".join(parts[:depth])] = ()
        return modules
    return {name.removesuffix(WEIGHT_SUFFIX): shape for name, shape in shapes.items() if _is_layer_weight(name, shape)}


def _is_layer_weight(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a weight belongs to a linear or convolutional layer, judged by its name and shape."""
    # norms have vectors as weights
    if not name.endswith(WEIGHT_SUFFIX) or len(shape) <= 1:
        return False
    return not name.removesuffix(WEIGHT_SUFFIX).endswith(EMBEDDING_SUFFIX)


def _weight_shapes(folder: Path, family: Family, adapted: str, files: Iterable[str]) -> Shapes:
    """Shape of every weight of a component that can be adapted, by name.

    folder: the base's; files: relative names of its files, empty for a base of the Hub, where they are not known.
    """
    component = family.components[adapted]
    if (folder / CHECKPOINT).exists():
        return checkpoint_shapes(folder, component, family.checkpoint_layouts)
    paths = [folder / file for file in files if file.startswith(f"{component}/")]
    if not paths:
        # may read several variants of the weights, which have the same shapes
        paths = list((folder / component).glob("*"))
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        shapes.update(_tensor_shapes(path))
    return shapes


def _tensor_shapes(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    if file.suffix != ".safetensors":
        return
    try:
        yield from tensor_shapes(file).items()
    except (RecipeError, OSError):
        # `load` reads the weights, and reports what is wrong with them
        return
