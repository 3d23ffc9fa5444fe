"""What every adapter type answers, so that stages can attach it without knowing which one it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field

from dbrun.config_types import Float, Int, OrNone, Part, Text, subclasses, tagged_union
from dbrun.errors import KeyProblem

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn

    from dbrun.adapters.direct import DirectWeights
    from dbrun.adapters.import_adapter import ImportCandidate, ImportedAdapter
    from dbrun.adapters.lycoris_layer import LycorisLayer

Level = Literal["info", "warning"]
MAX_IDLE_SHARE = 0.01
"""The share of an adapter's numbers that may be of no use without a word."""
TARGET_PRESETS = ("attention", "attention+ff", "linear", "all")


def _check_stop_at(value: float | None) -> float | None:
    if value is not None and value >= 1 and value != int(value):
        from pydantic_core import PydanticCustomError

        raise PydanticCustomError("wants_stop", "expected whole steps such as 300, or a share of them such as 0.5")
    return value


class Learnable(Part):
    """What a recipe says of one component that learns, whatever it is that learns there."""

    NAME: ClassVar[str]
    NEUTRAL: ClassVar[dict[str, object]] = {"learning_rate": None, "stop_at": None}
    EXCLUDED_FIELDS: ClassVar[tuple[str, ...]] = ("learning_rate", "stop_at")
    """The fields that are no part of what learns: only training reads them, or their contents count."""
    uses_peft: ClassVar[bool] = True
    """Whether peft puts it on; else `attach_direct` does."""
    always_in_config: ClassVar[tuple[str, ...]] = ()
    """Settings of its own in peft's config that a file names even where they are peft's defaults."""
    learning_rate: Annotated[Float | None, Field(gt=0, le=1e6), OrNone] = None
    """The component's own peak learning rate; left out, `train.learning_rate`."""
    stop_at: Annotated[Float | None, Field(gt=0), AfterValidator(_check_stop_at), OrNone] = None
    """Steps after which the component learns no more; below 1, a share of `train.steps`. Left out, it never stops."""

    def stop_step(self, steps: int) -> int | None:
        """How many of so many steps the component learns; None for all."""
        if self.stop_at is None:
            return None
        return int(self.stop_at) if self.stop_at >= 1 else round(self.stop_at * steps)

    def without_excluded(self) -> Self:
        """The adapter without what is no part of it."""
        return self.model_copy(update=dict.fromkeys(self.EXCLUDED_FIELDS))

    def field_problems(self) -> Iterator[KeyProblem]:
        """What in it cannot be meant, as far as it can tell without a model."""
        yield from ()

    def resolved_for(self, modules: tuple[str, ...]) -> Self:
        """The same with nothing left open, so that two ways to ask for it leave equal bytes."""
        return self.without_excluded()

    def to_json(self) -> dict[str, Any]:
        """Itself as JSON data; `type` says how to read it."""
        return self.model_dump(mode="json", exclude=set(self.EXCLUDED_FIELDS))

    def attach_direct(self, module: nn.Module, modules: tuple[str, ...]) -> DirectWeights | None:
        """Make weights of module learn without peft, and give what reads and writes them; None where peft is to."""
        return None

    def peft_config(self, modules: tuple[str, ...]) -> PeftConfig:
        """peft's config for these full module names (already matched against the model)."""
        raise NotImplementedError

    def to_peft(self, modules: tuple[str, ...],
                state: Mapping[str, Tensor]) -> tuple[PeftConfig, Mapping[str, Tensor]]:
        """The config and weights with which peft does the same on an untouched base."""
        return self.peft_config(modules), state

    def to_lora(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The same update as LoRA weights that are right at alpha = rank, as readers take it who know no alpha."""
        raise NotImplementedError

    def to_lycoris(self, modules: tuple[str, ...], state: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """The same update under LyCORIS' names: layer -> end of the name, such as `lora_up.weight` -> tensor."""
        raise NotImplementedError

    @property
    def lycoris_caveat(self) -> str | None:
        """What other programs than LyCORIS make of what `to_lycoris` gives, as a sentence;
        None where it is the same."""
        return None


class Adapter(Learnable):
    """How one component of the base is adapted.

    A subclass lives in a file of its own, sets NAME and its `type` tag, and turns itself into peft's config.
    """

    NEUTRAL: ClassVar[dict[str, object]] = {"init": None}
    OMIT_IF_NEUTRAL: ClassVar[tuple[str, ...]] = ()
    """Neutral fields that `adapter.json` leaves out: those that came after adapters without them were written."""
    layer_classes: ClassVar[tuple[str, ...]] = ("Linear", "Conv2d")
    """Class names of the layers that targets are looked for among."""
    supports_lora: ClassVar[bool] = False
    """Whether `to_lora` works: whether the update is a product of two thin matrices."""
    lycoris_layer: ClassVar[LycorisLayer | None] = None
    """How LyCORIS writes one layer, as `to_lycoris` gives it; None where LyCORIS has no names for the update."""
    no_lycoris_reason: ClassVar[str | None] = None
    """Why it does not although LyCORIS has a type of this name, as a clause after it."""
    EXCLUDED_FIELDS: ClassVar[tuple[str, ...]] = (*Learnable.EXCLUDED_FIELDS, "init")
    scale_folds_into: ClassVar[tuple[str, ...]] = ()
    """The last names of weights that the update grows with in proportion, one a layer; a scale can go into them."""
    targets: str | tuple[str, ...]
    init: Annotated[Text | None, OrNone] = None
    """An adapter to start from (relative to the recipe): a PEFT folder, a `pytorch_lora_weights.safetensors`, or
    a file with kohya's names."""

    @property
    def linear_only_reason(self) -> str | None:
        """Why it cannot go on convolutions; None where it can."""
        return None

    def max_parameter_count(self, shape: Sequence[int]) -> int:
        """How many numbers at most it has for a weight of this shape."""
        return prod(shape)

    def layer_problem(self, shapes: Mapping[str, Sequence[int]]) -> KeyProblem | None:
        """Why it cannot go on these layers, if it cannot. shapes: layer -> its weight's, [out, in …]."""
        wide = [name for name, shape in shapes.items() if len(shape) > 2]
        if self.linear_only_reason and wide:
            return KeyProblem("targets", f"found convolutions among its {len(shapes)} layers, such as `{wide[0]}`: "
                              f"{self.linear_only_reason}",
                              "write `targets: linear`, or patterns that hit linear layers only")
        return None

    def layer_note(self, shapes: Mapping[str, Sequence[int]]) -> tuple[str, Level] | None:
        """What is odd about it on these layers, if anything is, and how odd."""
        return None

    def resolved_for(self, modules: tuple[str, ...]) -> Self:
        """The same adapter with nothing left open, so that two ways to ask for it leave equal bytes."""
        return self.without_excluded().model_copy(update={"targets": modules})

    def to_json(self) -> dict[str, Any]:
        """Itself as JSON data without its targets; `type` says how to read it."""
        off = {name for name in self.OMIT_IF_NEUTRAL if getattr(self, name) == self.NEUTRAL[name]}
        return self.model_dump(mode="json", exclude={"targets", *self.EXCLUDED_FIELDS, *off})

    @classmethod
    def import_candidates(cls, given: ImportedAdapter) -> Iterator[ImportCandidate]:
        """Another program's adapter of this type as one of these, the likeliest settings first; all predict the same.

        More than one where its file does not say all: the right one is known by the shapes that it gives.
        """
        raise NotImplementedError

    def frozen_peft_config(self, modules: tuple[str, ...]) -> PeftConfig | None:
        """peft's config of a second adapter on the same layers that never trains; None where there is none."""
        return None

    @property
    def starts_exactly(self) -> bool:
        """Whether the base predicts the same to the bit before the adapter has learnt; else but for rounding."""
        return True

    def initial_weights(self, layers: Mapping[str, nn.Module], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The first weights, by the names of `attach.read`. layers: the bare ones; state: what peft drew."""
        return state


class LowRankAdapter(Adapter):
    """An adapter whose update is made of thin matrices, and scaled by alpha / rank."""

    rank: Annotated[Int, Field(ge=1, le=4096)] = 4
    """Inner dimension of the update; larger learns more and weighs more."""
    alpha: Annotated[Float | None, Field(gt=0), OrNone] = None
    """The update is scaled by alpha / rank; left out, alpha = rank."""

    @property
    def effective_alpha(self) -> float:
        """alpha as a number."""
        return self.alpha if self.alpha is not None else float(self.rank)

    @property
    def scale(self) -> float:
        """What the update is multiplied with: alpha / rank."""
        return self.effective_alpha / self.rank

    def max_useful_rank(self, shape: Sequence[int]) -> int:
        """The rank beyond which more adds nothing to a weight of this shape, [out, in …]: its narrower side."""
        return min(shape[0], prod(shape[1:]))

    def layer_problem(self, shapes: Mapping[str, Sequence[int]]) -> KeyProblem | None:
        """Also where its rank is beyond what any of its layers can use."""
        most = max(map(self.max_useful_rank, shapes.values()))
        if self.rank > most:
            return KeyProblem("rank",
                              f"found {self.rank}, but none of the {len(shapes)} layers that `targets` selects is "
                              f"wider than {most}: a rank beyond that adds nothing", f"write {most} or less")
        return super().layer_problem(shapes)

    def layer_note(self, shapes: Mapping[str, Sequence[int]]) -> tuple[str, Level] | None:
        """A rank that is beyond what some of its layers can use, where that is a share of it worth a word."""
        spare = {name: self.rank - self.max_useful_rank(shape) for name, shape in shapes.items()}
        beyond = [name for name, more in spare.items() if more > 0]
        sides = {name: (shape[0], prod(shape[1:])) for name, shape in shapes.items()}
        idle = sum(spare[name] * sum(sides[name]) for name in beyond)
        if idle <= MAX_IDLE_SHARE * self.rank * sum(map(sum, sides.values())):
            return None
        first = max(beyond, key=lambda name: spare[name])
        return (f"rank {self.rank} is more than {len(beyond)} of {len(shapes)} layers can use, such as `{first}` "
                f"({sides[first][0]} × {sides[first][1]}); it costs room and time there, and adds nothing", "warning")

    def max_parameter_count(self, shape: Sequence[int]) -> int:
        """Two pairs of thin matrices, the most that one of its types has, and a magnitude for each output."""
        outputs, inputs = (shape[0], prod(shape[1:])) if len(shape) > 1 else (0, 0)
        return 2 * self.rank * (outputs + inputs) + outputs

    def resolved_for(self, modules: tuple[str, ...]) -> Self:
        """With alpha as a number."""
        return super().resolved_for(modules).model_copy(update={"alpha": self.effective_alpha})


def _check_targets(value: tuple[Text, ...] | str) -> tuple[str, ...] | str:
    if not value or (isinstance(value, str) and value not in TARGET_PRESETS):
        from pydantic_core import PydanticCustomError

        raise PydanticCustomError("wants_targets", "expected one of {presets}, or a list of patterns",
                                  {"presets": ", ".join(TARGET_PRESETS)})
    return value


Targets = Annotated[Text | tuple[Text, ...], AfterValidator(_check_targets)]
"""A preset of the family, or patterns: module names or their dotted ends, `*` for any part of a name."""


def adapter_types() -> tuple[type[Adapter], ...]:
    """Every adapter type that has a file here."""
    return subclasses("dbrun.adapters", Adapter)


def any_adapter() -> object:
    """The pydantic type of `adapt.<component>`: one of the adapter types, told apart by `type`."""
    return tagged_union(adapter_types())
