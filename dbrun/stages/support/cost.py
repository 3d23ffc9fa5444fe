"""The cost of a stage before it runs: upper bounds of its disk space, and the sizes that its time depends on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dbrun.errors import DbrunError
from dbrun.models.base import Family, families
from dbrun.models.ldm_layouts import CHECKPOINT
from dbrun.models.ldm_names import checkpoint_shapes
from dbrun.recipe.schema.adapt import Adapt
from dbrun.recipe.schema.model import Base
from dbrun.safetensors_header import tensor_shapes
from dbrun.stages.base import StageContext
from dbrun.stages.load import read_base_record
from dbrun.stages.sources import Artifact, BaseSource

OVERHEAD_BYTES = 2 * 2**20
"""Bytes for the small files of every stage: indexes, provenance, headers."""
PIXEL_BYTES = 3
"""Bytes of a pixel in a picture file, before compression."""
FLOAT32_BYTES = 4
SIZE_FIELDS = {"rank", "alpha"}
"""Adapter fields that `adapter_labels` leaves out: `count_parameters` counts the rank; alpha costs nothing."""


def picture_bytes(count: int, side: int) -> int:
    """An upper bound of the bytes of `count` picture files. side: in pixels."""
    return count * (side * side * PIXEL_BYTES + 2**14)


def artifact_bytes(artifact: Artifact) -> int:
    """The bytes of an artifact's files."""
    return _total_bytes(path for path in artifact.path.rglob("*") if path.is_file())


def adapter_file_bytes(folder: Path) -> int:
    """The bytes of the adapter in a folder, without candidates and others beside it."""
    return _total_bytes(folder.glob("*.safetensors"))


def base_bytes(ctx: StageContext[Any], folder: str = "") -> int:
    """The bytes of the base's files, or of those in one of its folders; 0 where the base is gone."""
    return _total_bytes(_base_files(ctx, folder))


def adapter_bytes(ctx: StageContext[Any], adapt: Adapt) -> int:
    """An upper bound of the bytes of a recipe's adapters: as if each were on every layer that it can be on."""
    if ctx.base is None:
        return 0
    weights = [path for path in _base_files(ctx, "") if path.suffix == ".safetensors"]
    family = read_base_record(ctx.inputs["load"]).family
    return FLOAT32_BYTES * count_parameters(family, adapt, ctx.base, weights)


def adapter_size(base: BaseSource, adapt: Adapt) -> float:
    """The number that the adapters' files grow with; 0 where the base is not on this machine."""
    if base.folder is None:
        return 0.0
    # an estimate must not fail a plan: the stage `load` reports a damaged file
    try:
        weights = sorted(base.folder.glob("*/*.safetensors"))
        return 1.0 + count_parameters(families()[base.family], adapt, base.folder, weights)
    except (OSError, DbrunError):
        return 0.0


def count_parameters(family: Family, adapt: Adapt, base: Path, weights: Sequence[Path]) -> int:
    """The most parameters that a recipe's adapters can have. base: folder; weights: safetensors files in sub-folders.
    """
    count = 0
    for name, adapter in adapt.adapters.items():
        if name not in family.components:
            continue
        for shape in _component_shapes(family, base, family.components[name], weights):
            count += adapter.max_parameter_count(shape)
    return count


def _component_shapes(family: Family, base: Path, component: str,
                      weights: Sequence[Path]) -> Iterator[tuple[int, ...]]:
    """Yield the shape of each weight of a component, by its name in model_index.json."""
    if (base / CHECKPOINT).exists():
        yield from checkpoint_shapes(base, component, family.checkpoint_layouts).values()
        return
    for path in weights:
        if path.parent.name == component:
            yield from tensor_shapes(path).values()


def guidance_label(guidance: float) -> str:
    """A label for whether guidance is on; the denoiser then runs twice per sampler step."""
    return f"guided {guidance > 1}"


def denoiser_labels(base: Base) -> tuple[str, ...]:
    """Labels for a denoiser that is quantised or offloaded; none for others, as in records from before there were any.
    """
    labels: list[str] = []
    if base.quantise is not None:
        labels.append(f"quantised {base.quantise}")
    if base.offload is not None:
        labels.append(f"offload {base.offload}")
    return tuple(labels)


def adapter_labels(adapt: Adapt) -> tuple[str, ...]:
    """A label for each component's adapter: its type and layers, but not its size."""
    labels: list[str] = []
    for name, adapter in adapt.components.items():
        document = adapter.model_dump(mode="json", exclude={*adapter.EXCLUDED_FIELDS, *SIZE_FIELDS})
        labels.append(f"{name} {json.dumps(document, sort_keys=True)}")
    return tuple(labels)


def _base_files(ctx: StageContext[Any], folder: str) -> list[Path]:
    if ctx.base is None:
        return []
    names = read_base_record(ctx.inputs["load"]).files
    return [ctx.base / name for name in names if not folder or name.startswith(f"{folder}/")]


def _total_bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
