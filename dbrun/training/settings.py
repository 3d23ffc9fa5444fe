"""The settings of a training: one list of fields for the recipe's `train`, the stage's cache key and the loop."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from dbrun.config_types import Bool, Float, Int, OrNone, Part, tagged_union
from dbrun.models.base import families
from dbrun.options import optimizers, schedules
from dbrun.options.candidates import Candidates
from dbrun.options.ema import Ema
from dbrun.options.held_out import HeldOut
from dbrun.options.objective import DEFAULT_OBJECTIVE, Objective
from dbrun.options.precision import Precision, PrecisionChoice


def class_label_names() -> tuple[str, ...]:
    """Allowed values of `train.class_labels` over all families, each family's own default last."""
    names: list[str] = []
    for family in families().values():
        default, *others = family.class_labels
        names += [*others, default]
    return tuple(dict.fromkeys(names))


def class_labels_doc() -> str:
    """Schema text of `train.class_labels`: the texts of all families that have one, joined."""
    texts = [family.class_labels_doc for family in families().values() if family.class_labels_doc]
    # a family that inherits its text from another would say it twice
    return " ".join(dict.fromkeys(texts))


AnySchedule: Any = tagged_union(schedules.schedule_types())
AnyOptimizer: Any = tagged_union(optimizers.optimizer_types())
ClassLabels: Any = Literal[class_label_names()]


class TrainSettings(Part):
    """The fields of a recipe's `train` that can change the trained weights. A new training option is one field here.

    A field that equals its value in NEUTRAL is left out of the cache key, so that results from before the option was
    added are still found.
    """

    NEUTRAL: ClassVar[dict[str, object]] = {"accumulation": 1, "class_labels": None, "tf32": False, "ema": None,
                                            "held_out": None, "guidance": None, "deterministic": False,
                                            "candidates": None, "compile": False, "graph": False}

    steps: Annotated[Int | None, Field(ge=1, le=10_000_000), OrNone] = None
    """Number of optimizer steps. If left out: 800, or what `epochs` amounts to."""
    learning_rate: Annotated[Float, Field(gt=0, le=1e6)] = 1e-4
    """The peak learning rate."""
    batch_size: Annotated[Int, Field(ge=1, le=4096)] = 1
    """Instance images per micro-batch. With `prior`, the same number of class images is added."""
    accumulation: Annotated[Int, Field(ge=1, le=4096)] = 1
    """Micro-batches per optimizer step; their gradients are averaged."""
    max_grad_norm: Annotated[Float | None, Field(gt=0), OrNone] = 1.0
    """Clip gradients to this norm; null turns clipping off."""
    optimizer: AnyOptimizer = optimizers.AdamW.from_defaults()
    """The optimizer."""
    schedule: AnySchedule = schedules.Constant.from_defaults()
    """The learning-rate schedule."""
    ema: Annotated[Ema | None, OrNone] = None
    """Export a moving average (EMA) of the trained weights; `{}` for the defaults. If left out: the last weights."""
    held_out: Annotated[HeldOut | None, OrNone] = None
    """Keep a share of the instance images out of training and compute their loss, to see overfitting and to stop early;
    `{}` for the defaults. If left out: none."""
    candidates: Annotated[Candidates | None, OrNone] = None
    """Keep the adapters of earlier steps, too, so that `select` can choose the best of them. If left out: none."""
    precision: PrecisionChoice = "auto"
    """Precision of the frozen base and the forward pass; the trained weights always stay in 32 bits. auto: bf16 on an
    NVIDIA GPU of compute capability 8.0 or more, fp16 on an older one, fp32 elsewhere."""
    tf32: Bool = False
    """On an NVIDIA GPU, multiply 32-bit numbers in TF32: faster, but with a mantissa of 10 bits instead of 23."""
    deterministic: Bool = False
    """On a GPU, compute the same bits in every run, in all stages, by torch's deterministic algorithms, which are often
    slower. On a CPU that is so in any case."""
    compile: Bool = False
    """Compile the blocks that the denoiser repeats by torch.compile, for a GPU: the first step of each picture shape
    takes a minute, the others are faster. On a CPU nothing is gained. What cannot be compiled runs as it is."""
    graph: Bool = False
    """On an NVIDIA GPU, replay the denoiser's forward and backward pass as a CUDA graph for each picture shape, which
    saves the time to launch thousands of small operations, and takes the memory of a step twice. Where none can be
    made, steps run as they are."""
    class_labels: Annotated[ClassLabels | None, OrNone, Field(description=class_labels_doc())] = None
    guidance: Annotated[Float | None, Field(ge=0, le=100), OrNone] = None
    """For a denoiser that takes the guidance scale as an input (FLUX.1 dev), the scale that training gives it, which
    is not the one of sampling. Left out, 1, which the adapters of most programs are trained with."""

    @property
    def resolved_precision(self) -> Precision:
        """The precision that trains; `auto` counts as fp32 until a plan has resolved it for its device."""
        return "fp32" if self.precision == "auto" else self.precision


class TrainParams(TrainSettings):
    """The params of the stage `train`: its settings with every default resolved, and the other fields it trains by.

    steps: resolved from `epochs` and the number of pictures; learning_rate: after `scale_lr`.
    """

    NEUTRAL: ClassVar[dict[str, object]] = {
        "class_labels": "none", "guidance": 1.0, "learning_rates": {}, "stops": {}, "objective": DEFAULT_OBJECTIVE,
        "prior_target": "images", "held": (), "quantise": None,
        "reduced_over": 1}
    WORDS: ClassVar[Mapping[str, str]] = {
        "prior_weight": "prior.weight", "prior_target": "prior.target", "seed": "seed", "objective": "objective",
        "learning_rates": "adapt.{}.learning_rate", "stops": "adapt.{}.stop_at", "held": "pictures held out",
        "quantise": "base.quantise", "reduced_over": "launch.processes"}

    steps: int
    """Number of optimizer steps."""
    precision: Precision = "fp32"
    """Precision of the frozen base and the forward pass."""
    class_labels: ClassLabels = "none"
    """The kind of class labels that the denoiser gets; one of the family's `class_labels`."""
    guidance: float = 1.0
    """Guidance scale that the denoiser gets, if it takes one."""
    prior_weight: float = 0.0
    """Weight of the prior loss, at least 0; it has an effect only where batches hold class rows."""
    seed: int = 0
    """The recipe's seed."""
    learning_rates: Mapping[str, float] = {}
    """Component -> its own peak learning rate, only where it differs from the common one."""
    stops: Mapping[str, int] = {}
    """Component -> number of steps that it trains, only where it stops early. A share of the training is given in
    steps, so that a longer training with the same share has another cache key."""
    objective: Objective = DEFAULT_OBJECTIVE
    """The training objective: prediction type, noise, timesteps and weights of the loss."""
    prior_target: Literal["images", "base"] = "images"
    """The target of class rows: as for instance rows, or the frozen base's prediction."""
    held: tuple[int, ...] = ()
    """The numbers of the held-out instance pictures, counted from 0."""
    quantise: str | None = None
    """Number format of the frozen denoiser's linear layers, None for `precision`."""
    reduced_over: int = 1
    """Number of processes whose gradients an all-reduce adds; 1 where they are added in the order of the slots."""

    @classmethod
    def resolve(cls, settings: TrainSettings, **resolved: Any) -> Self:
        """The params of these settings. resolved: field name -> value, in place of the settings' own; not validated."""
        # without validation: the recipe's values are valid already
        chosen = {name: getattr(settings, name) for name in TrainSettings.model_fields}
        return cls.model_construct(**{**chosen, **resolved})
