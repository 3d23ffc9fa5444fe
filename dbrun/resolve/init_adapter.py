"""The adapter that `adapt.<component>.init` names, checked against the recipe; read without torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbrun.adapters.base import Adapter
from dbrun.errors import RecipeError
from dbrun.formats.base import formats
from dbrun.input_file import path_exists
from dbrun.models.base import Family
from dbrun.recipe.checks.suggestions import join_with_or
from dbrun.safetensors_header import read_header
from dbrun.store.atomic import explain_os_error
from dbrun.store.store import Store

LORA_DOWN_NAME = re.compile(r"\.lora(_A|[._]down)\.(\w+\.)?weight$")
"""End of the name of a LoRA's down matrix, whose shape is `[rank, in, …]`."""


@dataclass(frozen=True)
class FoundAdapter:
    """Adapter by its contents. identity: as in `Sources.inits`; files: sha256 → path of the file."""

    identity: str
    files: Mapping[str, Path]


@dataclass(frozen=True)
class InitRequest:
    """Requirements on an adapter to start from.

    adapter: as the recipe describes it; relative_to: folder that a relative path starts from; layer_count: number of
    layers that its targets hit, 0 if not known yet; preset_layer_counts: target preset → number of layers it hits.
    """

    family: Family
    component: str
    adapter: Adapter
    relative_to: Path
    layer_count: int = 0
    preset_layer_counts: Mapping[str, int] = field(default_factory=dict)


def find_adapter(path: str, request: InitRequest, store: Store) -> FoundAdapter:
    """Find the adapter at a path. Raises RecipeError if there is none, or if its type, rank or layers do not fit."""
    place = request.relative_to / Path(path).expanduser()
    # formats without a description of their files can be written, but not read back
    readable = [form for form in formats().values() if form.FILE_DESCRIPTION]
    try:
        for form in readable:
            files = form.find_files(place)
            if files is None:
                continue
            _check_type(form.adapter_type(files, request.family, request.component), place, request.adapter)
            # the weights are the last file; a config, if the format has one, comes before
            tensors = read_header(files[-1]).tensors
            prefix = form.weight_prefix(request.family, request.component)
            _check_rank_and_layers(tensors, prefix, place, request)
            digests = [store.digests.sha256(file) for file in files]
            return FoundAdapter(f"{form.NAME}:{'+'.join(digests)}", dict(zip(digests, files, strict=True)))
    except OSError as error:
        raise explain_os_error(error, f"reading the adapter {place}") from error
    problem = "is no adapter" if path_exists(place) else "is not there"
    allowed = join_with_or([form.FILE_DESCRIPTION for form in readable if form.FILE_DESCRIPTION])
    raise RecipeError(f"{place} {problem}", fix=f"name {allowed}")


def _check_type(found: str, place: Path, adapter: Adapter) -> None:
    """Raise RecipeError if the type of the file is not that of the recipe. found: the type of the file."""
    if found != adapter.NAME:
        raise RecipeError(f"{place} is an adapter of type {found}, but the recipe says `type: {adapter.NAME}`",
                          fix=f"write `type: {found}`, or name another adapter")


def _check_rank_and_layers(tensors: Mapping[str, Mapping[str, Any]], prefix: str, place: Path,
                           request: InitRequest) -> None:
    """Raise RecipeError if a LoRA has another rank or another number of layers than the recipe.

    tensors: safetensors header, name → dtype and shape; prefix: beginning of the names of this component's weights.
    """
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    ranks = [int(tensor["shape"][0]) for name, tensor in own.items() if LORA_DOWN_NAME.search(name)]
    # not a LoRA: `adapt` checks other types once their weights are loaded
    if not ranks:
        return
    recipe_rank = getattr(request.adapter, "rank", None)
    if set(ranks) != {recipe_rank}:
        usual_rank = Counter(ranks).most_common(1)[0][0]
        raise RecipeError(f"{place} has rank {usual_rank}, and the recipe says {recipe_rank}",
                          fix=f"write `rank: {usual_rank}`")
    if request.layer_count and len(ranks) != request.layer_count:
        fitting = [preset for preset, count in request.preset_layer_counts.items() if count == len(ranks)]
        fix = "write patterns in `targets` that hit the layers of the given adapter"
        if fitting:
            fix = f"write `targets: {fitting[0]}`"
        raise RecipeError(f"{place} is on {len(ranks)} layers, and `targets` hits {request.layer_count}", fix=fix)
