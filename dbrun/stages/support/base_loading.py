"""Loading of the verified base, in the precision and on the device that a stage needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from dbrun.errors import StageFailed
from dbrun.models.base import Model
from dbrun.models.quantisation import Quantisation, quantisations
from dbrun.options.packages import OptionalPackage
from dbrun.options.precision import Precision
from dbrun.peak_memory import PEAK
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import DRAWING_PRECISION, StageContext
from dbrun.stages.load import read_base_record
from dbrun.stages.sources import Numerics

LARGE_BASE = 2**28
"""Bytes of weights from which freed memory matters more than a few percent of a step."""

if TYPE_CHECKING:
    import torch
    from torch import nn


def sampling_precision(precision: Precision, numerics: Numerics) -> Precision:
    """The precision in which pictures are drawn and exports checked: the recipe's, but fp32 for fp16 on a CPU."""
    # no plan runs fp16 there; it only names keys, which stay what they were
    if numerics.device == "cpu" and precision == "fp16":
        return "fp32"
    return precision


def encoding_precision(recipe: Recipe) -> Precision:
    """The precision in which `preprocess` runs text encoders: bf16 on a GPU that trains in it, as diffusers does.

    In 32 bits a T5-XXL takes 19 GB, more than the denoiser that learns. fp32 elsewhere: in fp16 a T5 overflows, and
    on a CPU bf16 is slow where memory is no worry.
    """
    # `auto` is what no plan has resolved yet
    if recipe.device in ("cuda", "mps") and recipe.train.resolved_precision == "bf16":
        return "bf16"
    return "fp32"


def sampling_numerics(precision: Precision, numerics: Numerics) -> dict[str, str]:
    """What the cache key of a stage that draws says beside the device, so that it names the arithmetic of its pictures.

    Empty for 32 bits, and on a GPU. On a CPU, pictures of bf16 recipes used to be drawn in 32 bits: those must not be
    taken for pictures of 16.
    """
    if numerics.device != "cpu" or sampling_precision(precision, numerics) == "fp32":
        return {}
    return {DRAWING_PRECISION: precision}


def quantisation_packages(quantise: str | None) -> tuple[OptionalPackage, ...]:
    """The packages that a quantised base needs. quantise: the recipe's `base.quantise`."""
    if quantise is None:
        return ()
    return (quantisations()[quantise].REQUIRED_PACKAGE,)


def has_own_memory(device: str) -> bool:
    """Whether a device (cuda, mps or cpu) has memory of its own, so that what lies in CPU memory takes none of it."""
    return device == "cuda"


def load_base(ctx: StageContext[Any], precision: Precision, device: torch.device | None = None,
              quantise: str | None = None, deterministic: bool = False) -> Model:
    """The base, frozen; its components are loaded as they are used. device: if left out, the run's, set up first.

    quantise: the recipe's `base.quantise`, None for the base's own weights; deterministic: `train.deterministic`, for
    all that the stage computes on the run's device.
    Raises StageFailed where the base's folder is gone.
    """
    from dbrun.training.device import (
        DTYPES,
        deterministic_algorithms,
        return_freed_memory,
        set_up_device,
        settings_restorer,
    )

    if ctx.base is None:
        raise StageFailed("the base's files are gone", fix="run again with `--force load`")
    record = read_base_record(ctx.inputs["load"])
    # no context manager: one that nobody closes would restore whenever the garbage collector finds it
    ctx.resident.settings.callback(settings_restorer())
    if device is None:
        device = set_up_device(ctx.numerics, ctx.process_group.local_rank)
        # also where it is off: what the process has set is in no cache key
        ctx.resident.settings.enter_context(deterministic_algorithms(deterministic))
    if sum(path.stat().st_size for path in ctx.base.rglob("*.safetensors")) >= LARGE_BASE:
        return_freed_memory()
    model = record.family.load(ctx.base, device=device, dtype=DTYPES[precision], variant=record.variant)
    model.prompt_reading = record.reading
    _leave_files_out_of_peak(model)
    if quantise is not None:
        quantise_denoiser(model, quantisations()[quantise])
    if ctx.runtime.offload and has_own_memory(device.type):
        model.weights.offloaded = model.family.components["denoiser"]
    ctx.resident.opened(ctx.inputs["load"].digest, model)
    return model


def open_for_encoding(ctx: StageContext[Any], precision: Precision, *,
                      deterministic: bool) -> tuple[Callable[[], Model], Callable[[], Model]]:
    """Two functions that open the base at their first call: for pictures, and for prompts, in this precision.

    No picture may be encoded after the first prompt: the autoencoder is freed then.
    """
    # in 32 bits on every device: a VAE in 16 bits overflows, and each crop is encoded only once
    @cache
    def for_pictures() -> Model:
        return load_base(ctx, "fp32", deterministic=deterministic)

    @cache
    def for_prompts() -> Model:
        model = for_pictures()
        if model.family.autoencoder:
            model.release(model.family.autoencoder)
        if precision == "fp32":
            return model
        return load_base(ctx, precision, deterministic=deterministic)

    return for_pictures, for_prompts


def _leave_files_out_of_peak(model: Model) -> None:
    """Let the base's weight files not count as memory of the stage while they are read."""
    load = model.weights.load_from_files

    def load_measured(name: str) -> nn.Module:
        with PEAK.without_files():
            return load(name)

    model.weights.load_from_files = load_measured


def quantise_denoiser(model: Model, quantisation: Quantisation) -> None:
    """Let a base load its denoiser quantised, and all else as before. model: its denoiser is not loaded yet."""
    import torch

    denoiser, load_plain = model.family.components["denoiser"], model.weights.load_from_files

    def load(name: str) -> nn.Module:
        if name != denoiser:
            return load_plain(name)
        # by way of the CPU, so that the device never holds the whole weights
        with PEAK.without_files():
            module = model.family.load_component(
                model.folder, name, device=torch.device("cpu"), dtype=model.family.component_dtype(name, model.dtype),
                variant=model.variant)
        return quantisation.quantise(module, model.device)

    model.weights.load_from_files, model.weights.quantisation = load, quantisation
