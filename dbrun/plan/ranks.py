"""Is a rank larger than anything that the base could learn with it? Read from the headers of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

from dbrun.errors import RecipeError
from dbrun.families.base import families
from dbrun.provenance import header
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.places import Problem, Problems
from dbrun.stages.base import BaseSource


def check_ranks(loaded: LoadedRecipe, base: BaseSource) -> None:
    """Raise Problems where a LoRA's rank is larger than both sides of every layer: what is beyond adds nothing."""
    if base.folder is None:
        return
    folders, found = families()[base.family].components, []
    for component, adapter in loaded.recipe.adapt.components.items():
        rank = getattr(adapter, "rank", None)
        if not getattr(adapter, "as_lora", False) or not isinstance(rank, int) or component not in folders:
            continue
        most = max(_narrow_sides(base.folder, folders[component], base.files), default=rank)
        if rank > most:
            key = f"adapt.{component}.rank"
            found.append(Problem(loaded.origins.get(key), key, f"found {rank}, but no layer of this base's {component} "
                                 f"is wider than {most}: a rank beyond that adds nothing", f"write {most} or less"))
    if found:
        raise Problems(found)


def _narrow_sides(folder: Path, component: str, files: object) -> Iterator[int]:
    """The narrower side of each weight that is a matrix or a convolution."""
    names = [name for name in files if name.startswith(f"{component}/")] if isinstance(files, dict) else []
    for name in names:
        if not name.endswith(".safetensors"):
            continue
        try:
            tensors = header(folder / name).tensors
        except (RecipeError, OSError):
            # `load` reads the weights and says what is wrong with them
            continue
        for tensor in tensors.values():
            shape = tensor["shape"]
            if len(shape) > 1:
                yield min(shape[0], prod(shape[1:]))
