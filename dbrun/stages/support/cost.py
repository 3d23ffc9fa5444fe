"""What a stage costs: upper bounds of disk, known before hours of work end on a full one, and its workload."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dbrun.errors import DbrunError
from dbrun.models.base import Family, families
from dbrun.recipe.schema.adapt import Adapt
from dbrun.safetensors_header import tensor_shapes
from dbrun.stages.base import StageContext
from dbrun.stages.load import read_base_record
from dbrun.stages.sources import Artifact, BaseSource

OVERHEAD_BYTES = 2 * 2**20
"""Bytes for what is small in every stage's result: indexes, provenance, headers."""
PIXEL_BYTES = 3
"""Bytes of a pixel in a picture file, which compression only lessens."""
FLOAT32_BYTES = 4
SIZE_FIELDS = {"rank", "alpha"}
"""What of an adapter `count_parameters` counts, or changes nothing of what it takes."""


def picture_bytes(count: int, side: int) -> int:
    """So many pictures in files of their own."""
    return count * (side * side * PIXEL_BYTES + 2**14)


def artifact_bytes(artifact: Artifact) -> int:
    """What an artifact's files hold."""
    return _total_bytes(path for path in artifact.path.rglob("*") if path.is_file())


def base_bytes(ctx: StageContext[Any], folder: str = "") -> int:
    """What the base's files hold, or those in one of its folders."""
    return _total_bytes(_base_files(ctx, folder))


def adapter_bytes(ctx: StageContext[Any], adapt: Adapt) -> int:
    """The adapters of a recipe, had each of them every layer that it could have."""
    weights = [path for path in _base_files(ctx, "") if path.suffix == ".safetensors"]
    return FLOAT32_BYTES * count_parameters(read_base_record(ctx.inputs["load"]).family, adapt,
                                            lambda part: (path for path in weights if path.parent.name == part))


def adapter_size(base: BaseSource, adapt: Adapt) -> float:
    """What the adapters' files grow with, 0 where the base is not here."""
    folder = base.folder
    if folder is None:
        return 0.0
    try:
        return 1.0 + count_parameters(families()[base.family], adapt, lambda part: folder.glob(f"{part}/*.safetensors"))
    except (OSError, DbrunError):
        # a base with a damaged file is refused by who reads it
        return 0.0


def count_parameters(family: Family, adapt: Adapt, weights: Callable[[str], Iterable[Path]]) -> int:
    """How many numbers a recipe's adapters have on every layer that they could have. weights: a folder's files."""
    return sum(one.max_parameter_count(shape)
               for name, one in adapt.adapters.items() if name in family.components
               for path in weights(family.components[name])
               for shape in tensor_shapes(path).values())


def guidance_label(guidance: float) -> str:
    """Whether a sampler asks the denoiser twice a step, in words."""
    return f"guided {guidance > 1}"


def adapter_labels(adapt: Adapt) -> tuple[str, ...]:
    """What learns and on which layers, in words; not how large it is."""
    found = {name: one.model_dump(mode="json", exclude={*one.EXCLUDED_FIELDS, *SIZE_FIELDS})
             for name, one in adapt.components.items()}
    return tuple(f"{name} {json.dumps(document, sort_keys=True)}" for name, document in found.items())


def _base_files(ctx: StageContext[Any], folder: str) -> list[Path]:
    if ctx.base is None:
        return []
    names = read_base_record(ctx.inputs["load"]).files
    return [ctx.base / name for name in names if not folder or name.startswith(f"{folder}/")]


def _total_bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
