"""How much room can a stage's results take? Upper bounds, known before hours of work end on a full disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dbrun.adapters.base import Adapter
from dbrun.provenance import header
from dbrun.recipe.model import Adapt
from dbrun.stages.base import Artifact, Job
from dbrun.stages.load import read_base

MARGIN = 2 * 2**20
"""Bytes for what is small in every stage's result: indexes, provenance, headers."""
PIXEL = 3
"""Bytes of a pixel in a picture file, which compression only lessens."""
FLOAT = 4


def pictures(count: int, side: int) -> int:
    """So many pictures in files of their own."""
    return count * (side * side * PIXEL + 2**14)


def stored(artifact: Artifact) -> int:
    """What an artifact's files hold."""
    return _sizes(path for path in artifact.path.rglob("*") if path.is_file())


def base(job: Job[Any], folder: str = "") -> int:
    """What the base's files hold, or those in one of its folders."""
    return _sizes(_files(job, folder))


def adapters(job: Job[Any], adapt: Adapt) -> int:
    """The adapters of a recipe, had each of them every layer that it could have."""
    family = read_base(job.inputs["load"]).family
    return sum(FLOAT * one.numbers(tensor["shape"])
               for name, one in adapt.components.items() if isinstance(one, Adapter) and name in family.components
               for path in _files(job, family.components[name]) if path.suffix == ".safetensors"
               for tensor in header(path).tensors.values())


def _files(job: Job[Any], folder: str) -> list[Path]:
    if job.base is None:
        return []
    names = read_base(job.inputs["load"]).files
    return [job.base / name for name in names if not folder or name.startswith(f"{folder}/")]


def _sizes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
