"""What a recipe may say of the training."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Bool, Float, Int, OrNone, Part, tagged_union
from dbrun.models.base import class_label_names, class_labels_doc
from dbrun.options import optimizers, schedules
from dbrun.options.ema import Ema
from dbrun.options.held_out import HeldOut

DEFAULT_STEPS = 800
"""Optimizer updates where neither steps nor epochs are given."""
AnySchedule: Any = tagged_union(schedules.schedule_types())
AnyOptimizer: Any = tagged_union(optimizers.optimizer_types())
ClassLabels: Any = Literal[class_label_names()]


class Train(Part):
    """The training."""

    NEUTRAL: ClassVar[dict[str, object]] = {"accumulation": 1, "class_labels": None, "epochs": None, "scale_lr": False,
                                            "tf32": False, "gradient_checkpointing": False, "ema": None,
                                            "held_out": None}

    steps: Annotated[Int | None, Field(ge=1, le=10_000_000), OrNone] = None
    """Optimizer updates; left out, 800, or as many as `epochs` asks for."""
    epochs: Annotated[Int | None, Field(ge=1, le=1_000_000), OrNone] = None
    """Instead of `steps`: how often every instance image is shown."""
    learning_rate: Annotated[Float, Field(gt=0, le=1e6)] = 1e-4
    """The peak learning rate."""
    scale_lr: Bool = False
    """Multiply every learning rate by the instance images of a step, `accumulation` × `batch_size`."""
    batch_size: Annotated[Int, Field(ge=1, le=4096)] = 1
    """Instance images per micro-batch; with `prior` as many class images come with them."""
    accumulation: Annotated[Int, Field(ge=1, le=4096)] = 1
    """Micro-batches per step."""
    max_grad_norm: Annotated[Float | None, Field(gt=0), OrNone] = 1.0
    """Gradients are clipped to this norm; null for no clipping."""
    optimizer: AnyOptimizer = optimizers.AdamW.from_defaults()
    """The optimizer."""
    schedule: AnySchedule = schedules.Constant.from_defaults()
    """The learning-rate schedule."""
    ema: Annotated[Ema | None, OrNone] = None
    """Export a moving average of what was learnt; `{}` for the usual one; left out, what the last step left."""
    held_out: Annotated[HeldOut | None, OrNone] = None
    """Keep a share of the instance images out of training, to see their loss and to stop by it; `{}` for the usual
    share; left out, none."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass; trained weights stay in 32 bits."""
    tf32: Bool = False
    """On an NVIDIA GPU, let products of 32-bit numbers be computed in TF32: faster, with 10 bits of mantissa."""
    gradient_checkpointing: Bool = False
    """Compute activations twice instead of keeping them: much less memory, about a third more time, the same result."""
    class_labels: Annotated[ClassLabels | None, OrNone, Field(description=class_labels_doc())] = None
    checkpoint_every: Annotated[Int, Field(ge=1)] = 100
    """Steps between checkpoints; changes no result."""
    keep: Annotated[Int, Field(ge=1, le=1000)] = 2
    """How many checkpoints stay; changes no result."""

    @property
    def images_per_step(self) -> int:
        """Instance images in an optimizer update."""
        return self.batch_size * self.accumulation

    @property
    def learning_rate_scale(self) -> int:
        """What every learning rate is multiplied by."""
        return self.images_per_step if self.scale_lr else 1
