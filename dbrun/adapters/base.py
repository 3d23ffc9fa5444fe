"""What every adapter type answers, so that stages can attach it without knowing which one it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import AfterValidator, Field

from dbrun.parts import Float, OrNone, Part, Text, subclasses, union

if TYPE_CHECKING:
    from peft import PeftConfig

PRESETS = ("attention", "attention+ff", "linear", "all")


def _stop(value: float | None) -> float | None:
    if value is not None and value >= 1 and value != int(value):
        from pydantic_core import PydanticCustomError

        raise PydanticCustomError("wants_stop", "expected whole steps such as 300, or a share of them such as 0.5")
    return value


class Adapter(Part):
    """How one component of the base is adapted.

    A subclass lives in a file of its own, sets NAME and its `type` tag, and turns itself into peft's config.
    """

    NAME: ClassVar[str]
    NEUTRAL: ClassVar[dict[str, object]] = {"learning_rate": None, "stop_at": None, "init": None}
    layers: ClassVar[tuple[str, ...]] = ("Linear", "Conv2d")
    """Class names of the layers it can be put on."""
    BESIDE: ClassVar[tuple[str, ...]] = ("learning_rate", "stop_at", "init")
    """The fields that are no part of what the adapter is: only training reads them, or their contents count."""
    folds: ClassVar[tuple[str, ...]] = ()
    """The last names of weights that the update grows with in proportion, one a layer; a scale can go into them."""
    targets: str | tuple[str, ...]
    learning_rate: Annotated[Float | None, Field(gt=0, le=1e6), OrNone] = None
    """The component's own peak learning rate; left out, `train.learning_rate`."""
    stop_at: Annotated[Float | None, Field(gt=0), AfterValidator(_stop), OrNone] = None
    """Steps after which the component learns no more; below 1, a share of `train.steps`. Left out, it never stops."""
    init: Annotated[Text | None, OrNone] = None
    """An adapter to start from (relative to the recipe): a PEFT folder, or a `pytorch_lora_weights.safetensors`."""

    def stop(self, steps: int) -> int | None:
        """How many of so many steps the component learns; None for all."""
        if self.stop_at is None:
            return None
        return int(self.stop_at) if self.stop_at >= 1 else round(self.stop_at * steps)

    def itself(self) -> Self:
        """The adapter without what is no part of it."""
        return self.model_copy(update=dict.fromkeys(self.BESIDE))

    def decided(self, modules: tuple[str, ...]) -> Self:
        """The same adapter with nothing left open, so that two ways to ask for it leave equal bytes."""
        return self.itself().model_copy(update={"targets": modules})

    def peft_config(self, modules: tuple[str, ...]) -> PeftConfig:
        """peft's config for these full module names (already matched against the model)."""
        raise NotImplementedError


def _targets(value: tuple[Text, ...] | str) -> tuple[str, ...] | str:
    if not value or (isinstance(value, str) and value not in PRESETS):
        from pydantic_core import PydanticCustomError

        raise PydanticCustomError("wants_targets", "expected one of {presets}, or a list of patterns",
                                  {"presets": ", ".join(PRESETS)})
    return value


Targets = Annotated[Text | tuple[Text, ...], AfterValidator(_targets)]
"""A preset of the family, or patterns: module names or their dotted ends, `*` for any part of a name."""


def types() -> tuple[type[Adapter], ...]:
    """Every adapter type that has a file here."""
    return subclasses("dbrun.adapters", Adapter)


def any_adapter() -> object:
    """The pydantic type of `adapt.<component>`: one of the adapter types, told apart by `type`."""
    return union(types())
