"""The cost of scoring before it runs: time by the number of pictures, memory of a picture, bytes on the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbrun.recipe.schema.model import Recipe
from dbrun.stages.sources import Numerics
from dbrun.stages.support import cost
from dbrun.stages.support.base_loading import sampling_precision
from dbrun.stages.support.memory import CountedMemory, largest
from dbrun.stages.support.memory_advice import offload_advice, precision_advice, quantise_advice, resolution_advice
from dbrun.stages.support.memory_phases import encode_prompts_phase, sampling_phase
from dbrun.stages.support.scoring_params import ScoringParams
from dbrun.workload import Workload

if TYPE_CHECKING:
    from dbrun.training.dry_run import DryRun

EMBEDDING_BYTES = 8 * 2**10
"""Bytes of an embedding's file: at most 1,536 numbers in 32 bits, and a header."""


def scoring_workload(recipe: Recipe, params: ScoringParams, count: int) -> Workload:
    """The sizes that time and disk grow with. count: number of pictures."""
    pixels = params.resolution**2
    like = (params.precision, f"blocks of {params.block}", cost.guidance_label(params.guidance),
            *sorted(params.encoders), *cost.denoiser_labels(recipe.base))
    return Workload(count, params.steps * pixels, (pixels * params.block,), {".png": count * pixels}, like)


def scoring_memory(recipe: Recipe, dry_run: DryRun, params: ScoringParams) -> CountedMemory:
    """Text encoders first, then denoiser and autoencoder for a block of pictures."""
    precision = sampling_precision(params.precision, Numerics(dry_run.device, 0))
    base = dry_run.open(precision, recipe.adapt.components, params.quantise)
    kept = base.learning_encoders
    phases = [sampling_phase(base, params.resolution, params.guidance, *kept)]
    for encoder in base.frozen_encoders:
        phases.append(encode_prompts_phase(base, *kept, encoders=(encoder,)))
    if kept:
        phases.append(encode_prompts_phase(base, *kept, encoders=kept))
    return largest(phases)


def scoring_advice(recipe: Recipe, device: str) -> tuple[str, ...]:
    """Changes that make scoring need less memory: blocks in CPU memory, then what also trains anew."""
    costly = (*precision_advice(recipe), *quantise_advice(recipe, device), *resolution_advice(recipe))
    return (*offload_advice(recipe, device), *(f"{advice}, which trains anew" for advice in costly))


def max_scoring_bytes(params: ScoringParams, count: int) -> int:
    """An upper bound of the bytes of `count` pictures with their embeddings, and of a table. Imports no torch."""
    embeddings = len(params.encoders) * (count + len(params.pictures) + len(params.texts))
    return cost.picture_bytes(count, params.resolution) + EMBEDDING_BYTES * embeddings + cost.OVERHEAD_BYTES
