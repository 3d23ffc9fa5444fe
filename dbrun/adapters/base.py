"""Base classes of the adapter types: stages attach an adapter through them without knowing its type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field

from dbrun.config_types import Float, Int, OrNone, Part, PathText, Text, subclasses, tagged_union
from dbrun.errors import KeyProblem

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn

    from dbrun.adapters.direct import DirectWeights
    from dbrun.adapters.import_adapter import ImportCandidate, ImportedAdapter
    from dbrun.adapters.lycoris_layer import LycorisLayer

Level = Literal["info", "warning"]
LayerNeed = Literal["own weights", "readable weights", "plain weights", "weight shape"]
"""What an adapter may need of the layer below beside its output: the very numbers of the base's weight; a weight that
peft can read, whatever its format; a weight that is torch's own kind of tensor; a weight [out, in] of that shape."""
MAX_IDLE_SHARE = 0.01
"""Share of an adapter's parameters that may be useless before `layer_note` warns."""
TARGET_PRESETS = ("attention", "attention+ff", "blocks", "linear", "all")
"""Names of the presets of `targets`, from the narrowest; each family says which of them it has, and their layers."""


def _check_stop_at(value: float | None) -> float | None:
    if value is not None and value >= 1 and value != int(value):
        from pydantic_core import PydanticCustomError

        raise PydanticCustomError("wants_stop", "expected whole steps such as 300, or a share of them such as 0.5")
    return value


class Learnable(Part):
    """Settings of one component that learns: the base of adapters and of new words."""

    NAME: ClassVar[str]
    # A field that equals its neutral value is left out of the cache key, so a new field keeps old results valid.
    NEUTRAL: ClassVar[dict[str, object]] = {"learning_rate": None, "stop_at": None}
    EXCLUDED_FIELDS: ClassVar[tuple[str, ...]] = ("learning_rate", "stop_at")
    """Fields that do not describe the adapter itself: only training reads them, or only the file they name counts."""
    uses_peft: ClassVar[bool] = True
    """Whether peft attaches it; if not, `attach_direct` does."""
    always_in_config: ClassVar[tuple[str, ...]] = ()
    """Settings of this type that an exported peft config always contains, even at peft's default."""
    learning_rate: Annotated[Float | None, Field(gt=0, le=1e6), OrNone] = None
    """Peak learning rate of this component. Default: `train.learning_rate`."""
    stop_at: Annotated[Float | None, Field(gt=0), AfterValidator(_check_stop_at), OrNone] = None
    """Step after which this component stops learning; below 1, a share of `train.steps`. Default: it never stops."""

    def stop_step(self, steps: int) -> int | None:
        """Number of steps after which the component stops learning, out of `steps`; None if it never stops."""
        if self.stop_at is None:
            return None
        if self.stop_at >= 1:
            return int(self.stop_at)
        return round(self.stop_at * steps)

    def without_excluded(self) -> Self:
        """Copy with the `EXCLUDED_FIELDS` set to None."""
        return self.model_copy(update=dict.fromkeys(self.EXCLUDED_FIELDS))

    def field_problems(self) -> Iterator[KeyProblem]:
        """Yield the settings that contradict each other, as far as this shows without a model."""
        yield from ()

    def resolved_for(self, modules: tuple[str, ...]) -> Self:
        """Copy with every default filled in, so that equal adapters are stored as equal bytes.

        modules: full names of the adapted layers.
        """
        return self.without_excluded()

    def to_json(self) -> dict[str, Any]:
        """Settings as JSON data without the `EXCLUDED_FIELDS`; `type` tells the reader which class it is."""
        return self.model_dump(mode="json", exclude=set(self.EXCLUDED_FIELDS))

    @property
    def starts_from_base_weights(self) -> bool:
        """Whether its initial weights depend on the base's weights, not only on the layers' shapes."""
        return True

    @property
    def plain_start(self) -> Mapping[str, str]:
        """Fields with the values, as a recipe writes them, under which its initial weights need only shapes.

        Empty where they need no more now, or do so under all values.
        """
        return {}

    def attach_direct(self, module: nn.Module, modules: tuple[str, ...]) -> DirectWeights | None:
        """Make weights of module trainable without peft; returns None if peft is to attach the adapter."""
        return None

    def peft_config(self, modules: tuple[str, ...]) -> PeftConfig:
        """peft's config for these layers; modules: full names, already matched against the model."""
        raise NotImplementedError

    def to_peft(self, modules: tuple[str, ...],
                state: Mapping[str, Tensor]) -> tuple[PeftConfig, Mapping[str, Tensor]]:
        """Config and weights with which plain peft computes the same on an untouched base.

        Weights by peft's names and in its shapes, such as A [rank, in] and B [out, rank]; state: as
        `attach.read_weights` returns it.
        """
        return self.peft_config(modules), state

    def to_lora(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The same update as LoRA weights A [r, in …] and B [out, r …], with the scale already in B.

        So they are right at alpha = rank, which readers assume if a file holds no alpha.
        """
        raise NotImplementedError

    def to_diffusers(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The same update as diffusers' readers take it, by peft's names, right at alpha = rank: LoRA by default."""
        return self.to_lora(state)

    def diffusers_config(self, modules: tuple[str, ...]) -> Mapping[str, object]:
        """Fields of peft's config that such a reader is told, as JSON; empty where it finds them all in the weights."""
        return {}

    def to_lycoris(self, modules: tuple[str, ...], state: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """The same update by LyCORIS' names: layer -> end of the name -> tensor.

        An end is such as `lora_up.weight` [out, r …] or `alpha` [] (a scalar).
        """
        raise NotImplementedError

    @property
    def lycoris_caveat(self) -> str | None:
        """Sentence on programs that read the tensors of `to_lycoris` differently than LyCORIS; None if all agree."""
        return None


class Adapter(Learnable):
    """Base class of the adapter types: how one component of the base is adapted.

    A subclass has a file of its own, sets NAME and the tag `type`, and builds peft's config.
    """

    NEUTRAL: ClassVar[dict[str, object]] = {"init": None}
    OMIT_IF_NEUTRAL: ClassVar[tuple[str, ...]] = ()
    """Fields that `adapter.json` leaves out if neutral: newer than the first stored adapters, whose bytes must stay."""
    layer_classes: ClassVar[tuple[str, ...]] = ("Linear", "Conv2d")
    """Class names of the layers that `targets` can match."""
    supports_lora: ClassVar[bool] = False
    """Whether the update is a product of two low-rank matrices, so that `to_lora` works."""
    diffusers_mark: ClassVar[str | None] = None
    """Word in the names of its weights by which diffusers' readers know the type; None if none of them knows it."""
    lycoris_layer: ClassVar[LycorisLayer | None] = None
    """How LyCORIS writes one layer of this type; None if LyCORIS has no names for the update."""
    no_lycoris_reason: ClassVar[str | None] = None
    """Why LyCORIS cannot hold it although it has a type of this name; a clause that follows the name."""
    EXCLUDED_FIELDS: ClassVar[tuple[str, ...]] = (*Learnable.EXCLUDED_FIELDS, "init")
    scale_folds_into: ClassVar[tuple[str, ...]] = ()
    """Ends of weight names, one per layer: multiplying that weight by a factor multiplies the update by it."""
    targets: str | tuple[str, ...]
    init: Annotated[PathText | None, OrNone] = None
    """Path of an adapter to start from, relative to the recipe: a PEFT folder, a `pytorch_lora_weights.safetensors`, or
    a file with kohya's names."""

    @property
    def layer_needs(self) -> Mapping[LayerNeed, str]:
        """What it needs of the layers below → the reason, a clause. Quantised layers lack some of it."""
        return {}

    @property
    def beyond_lora(self) -> str | None:
        """Weights of `to_lora` that readers of plain LoRA ignore, in words; None if there are none."""
        return None

    @property
    def linear_only_reason(self) -> str | None:
        """Why it cannot adapt convolutions, as a clause; None if it can."""
        return None

    def max_parameter_count(self, shape: Sequence[int]) -> int:
        """Upper limit of its parameter count for a weight of this shape, [out, in …]."""
        return prod(shape)

    def layer_problem(self, shapes: Mapping[str, Sequence[int]]) -> KeyProblem | None:
        """Why it cannot adapt these layers; None if it can. shapes: layer -> its weight's shape, [out, in …]."""
        wide = [name for name, shape in shapes.items() if len(shape) > 2]
        if self.linear_only_reason and wide:
            return KeyProblem("targets", f"found convolutions among its {len(shapes)} layers, such as `{wide[0]}`: "
                              f"{self.linear_only_reason}",
                              "write `targets: linear`, or patterns that match linear layers only")
        return None

    def layer_note(self, shapes: Mapping[str, Sequence[int]]) -> tuple[str, Level] | None:
        """Note on settings that make little sense on these layers, with its level; None if all is well."""
        return None

    def resolved_for(self, modules: tuple[str, ...]) -> Self:
        """Copy with every default filled in and `targets` as full layer names: equal adapters, equal bytes."""
        return self.without_excluded().model_copy(update={"targets": modules})

    def to_json(self) -> dict[str, Any]:
        """Settings as JSON data, without `targets`, which the list of layers replaces."""
        omitted = {name for name in self.OMIT_IF_NEUTRAL if getattr(self, name) == self.NEUTRAL[name]}
        return self.model_dump(mode="json", exclude={"targets", *self.EXCLUDED_FIELDS, *omitted})

    @classmethod
    def import_candidates(cls, given: ImportedAdapter) -> Iterator[ImportCandidate]:
        """Yield readings of another program's adapter as this type, the likeliest first; all predict the same.

        There are several if the file leaves settings open; the right one is the first that gives its tensor shapes.
        """
        raise NotImplementedError

    def frozen_peft_config(self, modules: tuple[str, ...]) -> PeftConfig | None:
        """peft's config of a second adapter on the same layers that stays frozen; None if there is none."""
        return None

    @property
    def starts_exactly(self) -> bool:
        """Whether predictions before training equal the base's bit for bit; if not, up to rounding."""
        return True

    def initial_weights(self, layers: Mapping[str, nn.Module], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Initial weights, by the names and in the shapes of `attach.read_weights`.

        layers: name -> the bare layer, with its weight [out, in …]; state: the weights that peft drew.
        """
        return state


class LowRankAdapter(Adapter):
    """Base class of adapters whose update is built from low-rank matrices and scaled by alpha / rank."""

    rank: Annotated[Int, Field(ge=1, le=4096)] = 4
    """Rank: the inner dimension of the update. A larger rank can learn more and makes a larger file."""
    alpha: Annotated[Float | None, Field(gt=0), OrNone] = None
    """The update is scaled by alpha / rank. Default: alpha = rank, a scale of 1."""

    @property
    def effective_alpha(self) -> float:
        """alpha, with its default filled in."""
        if self.alpha is None:
            return float(self.rank)
        return self.alpha

    @property
    def scale(self) -> float:
        """Factor that the update is multiplied by: alpha / rank."""
        return self.effective_alpha / self.rank

    def max_useful_rank(self, shape: Sequence[int]) -> int:
        """Largest rank that still adds something to a weight of this shape, [out, in …]: its narrower side."""
        return min(shape[0], prod(shape[1:]))

    def layer_problem(self, shapes: Mapping[str, Sequence[int]]) -> KeyProblem | None:
        """Problem of the base class, or a rank above what any of the layers can use."""
        most = max(map(self.max_useful_rank, shapes.values()))
        if self.rank > most:
            return KeyProblem("rank",
                              f"found {self.rank}, but none of the {len(shapes)} layers that `targets` selects is "
                              f"wider than {most}: a rank beyond that adds nothing", f"write {most} or less")
        return super().layer_problem(shapes)

    def layer_note(self, shapes: Mapping[str, Sequence[int]]) -> tuple[str, Level] | None:
        """Warning for a rank above what some layers can use, if the useless share exceeds MAX_IDLE_SHARE."""
        excess = {name: self.rank - self.max_useful_rank(shape) for name, shape in shapes.items()}
        too_narrow = [name for name, ranks in excess.items() if ranks > 0]
        sides = {name: (shape[0], prod(shape[1:])) for name, shape in shapes.items()}
        # One rank of a layer is a column [out] and a row [in]. A handful of narrow layers (a time embedding, the
        # first convolution) is in every model and costs next to nothing, so only a real share is worth a warning.
        idle = sum(excess[name] * sum(sides[name]) for name in too_narrow)
        total = self.rank * sum(map(sum, sides.values()))
        if idle <= MAX_IDLE_SHARE * total:
            return None
        worst = max(too_narrow, key=lambda name: excess[name])
        outputs, inputs = sides[worst]
        return (f"rank {self.rank} is more than {len(too_narrow)} of {len(shapes)} layers can use, such as `{worst}` "
                f"({outputs} × {inputs}); it costs memory and time there, and adds nothing", "warning")

    def max_parameter_count(self, shape: Sequence[int]) -> int:
        """Upper limit over the low-rank types, for a weight of this shape, [out, in …]; 0 for a vector."""
        if len(shape) < 2:
            return 0
        outputs, inputs = shape[0], prod(shape[1:])
        # LoHa has two pairs of factors, DoRA a magnitude per output; no type has more.
        return 2 * self.rank * (outputs + inputs) + outputs

    def resolved_for(self, modules: tuple[str, ...]) -> Self:
        """Copy as in the base class, with alpha as a number."""
        return super().resolved_for(modules).model_copy(update={"alpha": self.effective_alpha})


def _check_targets(value: tuple[Text, ...] | str) -> tuple[str, ...] | str:
    """A single word must be a preset: a pattern stands in a list, so a mistyped preset is never taken for one."""
    unknown_preset = isinstance(value, str) and value not in TARGET_PRESETS
    if not value or unknown_preset:
        from pydantic_core import PydanticCustomError

        raise PydanticCustomError("wants_targets", "expected one of {presets}, or a list of patterns",
                                  {"presets": ", ".join(TARGET_PRESETS)})
    return value


Targets = Annotated[Text | tuple[Text, ...], AfterValidator(_check_targets)]
"""A preset of the family, or a list of patterns: module names or dotted ends of them, `*` for any part of a name."""


def adapter_types() -> tuple[type[Adapter], ...]:
    """Every adapter type: the subclasses of `Adapter` in the files of this package."""
    return subclasses("dbrun.adapters", Adapter)


def any_adapter() -> object:
    """Pydantic type of `adapt.<component>`: the union of all adapter types, tagged by `type`."""
    return tagged_union(adapter_types())
