"""What every adapter type answers, so that stages can attach it without knowing which one it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import AfterValidator

from dbrun.parts import Part, Text, subclasses, union

if TYPE_CHECKING:
    from peft import PeftConfig

PRESETS = ("attention", "attention+ff", "linear", "all")


class Adapter(Part):
    """How one component of the base is adapted.

    A subclass lives in a file of its own, sets NAME and its `type` tag, and turns itself into peft's config.
    """

    NAME: ClassVar[str]
    layers: ClassVar[tuple[str, ...]] = ("Linear", "Conv2d")
    """Class names of the layers it can be put on."""
    targets: str | tuple[str, ...]

    def decided(self, modules: tuple[str, ...]) -> Self:
        """The same adapter with nothing left open, so that two ways to ask for it leave equal bytes."""
        return self.model_copy(update={"targets": modules})

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
