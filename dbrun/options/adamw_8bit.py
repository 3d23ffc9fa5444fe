"""The optimizer AdamW with 8-bit moments, of the package bitsandbytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Int
from dbrun.options.optimizers import AdamLike
from dbrun.options.packages import OptionalPackage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

    from dbrun.options.optimizers import ParamGroupDict


class AdamW8bit(AdamLike):
    """AdamW with running means in 8 bits: a quarter of the memory (Dettmers et al. 2021, arXiv:2110.02861)."""

    NAME: ClassVar[str] = "adamw_8bit"
    REQUIRED_PACKAGE: ClassVar[OptionalPackage | None] = OptionalPackage("bitsandbytes", "bitsandbytes", "optimizers")
    type: Literal["adamw_8bit"]
    """The optimizer."""
    min_8bit_size: Annotated[Int, Field(ge=1)] = 4096
    """Parameters with fewer elements than this keep their running means in 32 bits."""

    def build(self, groups: Sequence[ParamGroupDict], learning_rate: float) -> Optimizer:
        """AdamW8bit of the package bitsandbytes; runs on a GPU or a CPU."""
        from bitsandbytes.optim import AdamW8bit as Made

        made: Optimizer = Made(groups, lr=learning_rate, min_8bit_size=self.min_8bit_size, **self.adam_arguments)
        return made
