"""The base in memory, as a stage asks for it: verified by `load`, in the precision and on the device of the stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbrun.errors import StageFailed
from dbrun.models.base import Model
from dbrun.options.precision import Precision
from dbrun.stages.base import StageContext
from dbrun.stages.load import read_base_record
from dbrun.stages.sources import Numerics

if TYPE_CHECKING:
    import torch


def sampling_precision(precision: Precision, numerics: Numerics) -> Precision:
    """The precision that pictures are drawn in: fp32 on a CPU, where less would be slower."""
    return "fp32" if numerics.device == "cpu" else precision


def load_base(ctx: StageContext[Any], precision: Precision,
              device: torch.device | None = None) -> Model:
    """The base that `load` verified. device: left out, the job's, made ready."""
    from dbrun.training.device import DTYPES, set_up_device

    if ctx.base is None:
        raise StageFailed("the base's files are gone", fix="run again with `--force load`")
    record = read_base_record(ctx.inputs["load"])
    if device is None:
        device = set_up_device(ctx.numerics, ctx.process_group.local_rank)
    return record.family.load(ctx.base, device=device, dtype=DTYPES[precision], variant=record.variant)
