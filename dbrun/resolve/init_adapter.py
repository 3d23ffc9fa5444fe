"""Which adapter does `adapt.<component>.init` name, and can it be what the recipe says? Read without torch."""

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
from dbrun.models.base import Family
from dbrun.recipe.checks.suggestions import join_with_or
from dbrun.safetensors_header import read_header
from dbrun.store.atomic import explain_os_error
from dbrun.store.store import Store

LORA_DOWN_NAME = re.compile(r"\.lora(_A|[._]down)\.(\w+\.)?weight$")
"""How the names of the first of a LoRA's two matrices end, [rank, in …]."""


@dataclass(frozen=True)
class FoundAdapter:
    """An adapter by its contents. identity: as in `Sources.inits`; files: digest -> a file with it."""

    identity: str
    files: Mapping[str, Path]


@dataclass(frozen=True)
class InitRequest:
    """What an adapter is to be started for.

    relative_to: where a relative path begins; layer_count: how many its targets hit, 0 where that is not known yet;
    preset_layer_counts: how many each of these would.
    """

    family: Family
    component: str
    adapter: Adapter
    relative_to: Path
    layer_count: int = 0
    preset_layer_counts: Mapping[str, int] = field(default_factory=dict)


def find_adapter(path: str, wanted: InitRequest, store: Store) -> FoundAdapter:
    """The adapter at a path. Raises RecipeError where it is none of the wanted type and component."""
    place = wanted.relative_to / Path(path).expanduser()
    try:
        for form in (form for form in formats().values() if form.FILE_DESCRIPTION):
            if (files := form.find_files(place)) is not None:
                _check_type(form.adapter_type(files, wanted.family, wanted.component), place, wanted.adapter)
                _check_rank_and_layers(read_header(files[-1]).tensors,
                                       form.weight_prefix(wanted.family, wanted.component), place, wanted)
                digests = [store.digests.sha256(file) for file in files]
                return FoundAdapter(f"{form.NAME}:{'+'.join(digests)}", dict(zip(digests, files, strict=True)))
    except OSError as error:
        raise explain_os_error(error, f"reading the adapter {place}") from error
    what = "is no adapter" if place.exists() else "is not there"
    asked = join_with_or([form.FILE_DESCRIPTION for form in formats().values() if form.FILE_DESCRIPTION])
    raise RecipeError(f"{place} {what}", fix=f"name {asked}")


def _check_type(found: str, place: Path, adapter: Adapter) -> None:
    if found != adapter.NAME:
        raise RecipeError(f"{place} is an adapter of type {found}, but the recipe says `type: {adapter.NAME}`",
                          fix=f"write `type: {found}`, or name another adapter")


def _check_rank_and_layers(tensors: Mapping[str, Mapping[str, Any]], begins: str, place: Path,
                           wanted: InitRequest) -> None:
    """Raise RecipeError where a LoRA has another rank, or is on more or fewer layers; `adapt` judges other types."""
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(begins)}
    ranks = [int(tensor["shape"][0]) for name, tensor in own.items() if LORA_DOWN_NAME.search(name)]
    asked = getattr(wanted.adapter, "rank", None)
    if ranks and set(ranks) != {asked}:
        most = Counter(ranks).most_common(1)[0][0]
        raise RecipeError(f"{place} has rank {most}, and the recipe says {asked}", fix=f"write `rank: {most}`")
    if ranks and wanted.layer_count and len(ranks) != wanted.layer_count:
        right = [preset for preset, count in wanted.preset_layer_counts.items() if count == len(ranks)]
        raise RecipeError(f"{place} is on {len(ranks)} layers, and `targets` hits {wanted.layer_count}",
                          fix=f"write `targets: {right[0]}`" if right else "write patterns in `targets` that hit the "
                          "layers of the given adapter")
