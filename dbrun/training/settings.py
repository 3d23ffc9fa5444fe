"""The settings of a training, once: the recipe's `train`, the cache key of the stage and the loop read these fields."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from dbrun.config_types import Bool, Float, Int, OrNone, Part, tagged_union
from dbrun.models.base import class_label_names, class_labels_doc
from dbrun.options import optimizers, schedules
from dbrun.options.ema import Ema
from dbrun.options.held_out import HeldOut
from dbrun.options.objective import DEFAULT_OBJECTIVE, Objective
from dbrun.options.precision import Precision

AnySchedule: Any = tagged_union(schedules.schedule_types())
AnyOptimizer: Any = tagged_union(optimizers.optimizer_types())
ClassLabels: Any = Literal[class_label_names()]


class TrainSettings(Part):
    """What a recipe's `train` says that reaches the trained bytes. A new training option is one field here.

    Its value under NEUTRAL leaves the option out of the cache key, so that earlier results are still found.
    """

    NEUTRAL: ClassVar[dict[str, object]] = {"accumulation": 1, "class_labels": None, "tf32": False, "ema": None,
                                            "held_out": None}

    steps: Annotated[Int | None, Field(ge=1, le=10_000_000), OrNone] = None
    """Optimizer updates; left out, 800, or as many as `epochs` asks for."""
    learning_rate: Annotated[Float, Field(gt=0, le=1e6)] = 1e-4
    """The peak learning rate."""
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
    precision: Precision = "fp32"
    """Arithmetic of the forward pass; trained weights stay in 32 bits."""
    tf32: Bool = False
    """On an NVIDIA GPU, let products of 32-bit numbers be computed in TF32: faster, with 10 bits of mantissa."""
    class_labels: Annotated[ClassLabels | None, OrNone, Field(description=class_labels_doc())] = None


class TrainParams(TrainSettings):
    """The settings with nothing left open, and what else of the recipe reaches the trained bytes.

    steps: a number, as `epochs` and the pictures give it; learning_rate: already scaled.
    """

    NEUTRAL: ClassVar[dict[str, object]] = {
        "class_labels": "none", "learning_rates": {}, "stops": {}, "objective": DEFAULT_OBJECTIVE,
        "prior_target": "images", "held": ()}
    WORDS: ClassVar[Mapping[str, str]] = {
        "prior_weight": "prior.weight", "prior_target": "prior.target", "seed": "seed", "objective": "objective",
        "learning_rates": "adapt.{}.learning_rate", "stops": "adapt.{}.stop_at", "held": "pictures held out"}

    steps: int
    """Optimizer updates."""
    class_labels: ClassLabels = "none"
    """What the denoiser is told as class labels, one of the family's own."""
    prior_weight: float = 0.0
    """Weight of the class half of the loss; 0 without class images. It counts only where batches hold class rows."""
    seed: int = 0
    """The recipe's seed."""
    learning_rates: Mapping[str, float] = {}
    """Component -> its own peak learning rate, where it is another than the common one."""
    stops: Mapping[str, int] = {}
    """Component -> steps that it learns, where it does not learn all. A share is counted out to steps, so that a
    longer run with the same share is another run."""
    objective: Objective = DEFAULT_OBJECTIVE
    """What is predicted, and how errors count."""
    prior_target: Literal["images", "base"] = "images"
    """What the class half aims at."""
    held: tuple[int, ...] = ()
    """The numbers of the instance pictures that are held out."""

    @classmethod
    def resolve(cls, settings: TrainSettings, **resolved: Any) -> Self:
        """These settings with the values that the recipe leaves open. resolved: by field name, already valid."""
        chosen = {name: getattr(settings, name) for name in TrainSettings.model_fields}
        return cls.model_construct(**{**chosen, **resolved})
