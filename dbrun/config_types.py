"""Building blocks of the recipe models: strict frozen parts, scalar types for YAML text, unions chosen by `type`."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from dbrun.naming import forbidden_in_prompt


class PlainScalar(str):
    """A plain (unquoted) YAML scalar: text until a field's type converts it."""

    __slots__ = ()


INT_PATTERN = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT_PATTERN = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NULL_WORDS = ("", "~", "null", "Null", "NULL")
"""What the YAML 1.2 core schema reads as null."""


# The field decides how a scalar is read, not its spelling: `name: 2024` and `name: yes` are texts, and `1e-4` is a
# number although YAML 1.1 reads it as text.
def _parse_int(value: object) -> object:
    if isinstance(value, PlainScalar) and INT_PATTERN.fullmatch(value):
        if value[:2] in ("0o", "0x"):
            return int(value, 0)
        return int(value)
    # in Python a bool is an int
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("wants_int", "expected a whole number")
    return value


def _parse_float(value: object) -> object:
    if isinstance(value, PlainScalar) and FLOAT_PATTERN.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PydanticCustomError("wants_float", "expected a number")
    # `not … <`, so that nan is refused as well
    if not abs(value) < float("inf"):
        raise PydanticCustomError("wants_finite", "expected a finite number")
    return float(value)


def _parse_bool(value: object) -> object:
    if isinstance(value, PlainScalar) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise PydanticCustomError("wants_bool", "expected true or false")
    return value


def _parse_text(value: object) -> object:
    if isinstance(value, PlainScalar) and value in NULL_WORDS:
        raise PydanticCustomError("wants_text", "expected text")
    if not isinstance(value, str):
        raise PydanticCustomError("wants_text", "expected text")
    # a plain str, so that a quoted and an unquoted text are the same recipe
    return str(value)


def _check_characters(value: str) -> str:
    # YAML's escapes, such as "\\x1b" in quotes, bring in what the recipe's text itself may not hold
    bad = forbidden_in_prompt(value)
    if bad:
        raise PydanticCustomError("wants_characters", "expected text without {bad}", {"bad": bad})
    return value


def check_filled(value: str) -> str:
    """The text itself; an error where it is only blanks."""
    if not value.strip():
        raise PydanticCustomError("wants_prompt", "expected words, not only blanks")
    return value


def _check_path(value: str) -> str:
    # joined to a folder, an empty path is that folder itself: a variable that is not set would name the recipe's own
    if not value.strip():
        raise PydanticCustomError("wants_path", "expected a path; '.' is the folder of the recipe")
    return value


def unwrap_single(value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    """A list of one text as the text itself, so that both spellings have the same cache key."""
    if isinstance(value, tuple) and len(value) == 1:
        return value[0]
    return value


def _parse_null(value: object) -> object:
    if isinstance(value, PlainScalar) and value in NULL_WORDS:
        return None
    return value


Int = Annotated[int, BeforeValidator(_parse_int, json_schema_input_type=int)]
Float = Annotated[float, BeforeValidator(_parse_float, json_schema_input_type=float)]
Bool = Annotated[bool, BeforeValidator(_parse_bool, json_schema_input_type=bool)]
Text = Annotated[str, BeforeValidator(_parse_text, json_schema_input_type=str)]
FilledText = Annotated[Text, AfterValidator(check_filled)]
"""Text that is not only blanks."""
PathText = Annotated[Text, AfterValidator(_check_path)]
"""Path, or a name in the place of one."""
PromptText = Annotated[Text, AfterValidator(_check_characters)]
"""Text that becomes a prompt or a part of one: without the characters that no prompt may hold."""
OrNone = BeforeValidator(_parse_null)
"""Validator for an optional field: `Annotated[Int | None, OrNone]` reads YAML's null as None."""


# Files of parts leave out `from __future__ import annotations` where no annotation needs it: pydantic would parse each
# annotation a second time, 10 ms at every start.
class Part(BaseModel):
    """A frozen, strict section of a recipe: an unknown key is an error.

    NEUTRAL: field → the value that switches a feature off. Fields with that value are left out of cache keys, so that a
    new feature does not invalidate earlier results. A default that has an effect is never neutral. A subclass adds its
    own entries to those of its bases.
    USUAL: whether messages show it as the example of its union's members; without such a member, they show the first.
    """

    # defer_build: validators are built when a recipe is first read, since `dbrun --help` needs none of them
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, defer_build=True)
    NEUTRAL: ClassVar[dict[str, object]] = {}
    USUAL: ClassVar[bool] = False

    @classmethod
    def from_defaults(cls) -> Self:
        """The part with the default of every field; nothing is validated."""
        # field defaults are made while modules load, and validating them would build every validator then
        return cls.model_construct()

    def step_limits(self, steps: int) -> Mapping[str, int]:
        """Field → the largest number that still has an effect in a training of `steps` steps; most parts have none."""
        return {}

    def with_changes(self, **changes: object) -> Self:
        """A copy with changed field values; the new values are not validated."""
        return self.model_copy(update=changes)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        neutral: dict[str, object] = {}
        # reversed, so that the first base wins, as in attribute look-up
        for base in reversed(cls.__bases__):
            if issubclass(base, Part):
                neutral |= base.NEUTRAL
        cls.NEUTRAL = neutral | cls.NEUTRAL


P = TypeVar("P", bound=type)


@cache
def subclasses(package: str, base: type) -> tuple[type[Any], ...]:
    """Concrete subclasses of base that the modules of a package define, in the order of the module names.

    Concrete means that the class itself sets `NAME`. A new file in the package is found without being registered.
    """
    home = importlib.import_module(package)
    # sorted: the order of a directory listing would change the schema and messages from machine to machine
    modules = sorted(m.name for m in pkgutil.iter_modules(home.__path__))
    found: list[type[Any]] = []
    for name in modules:
        module = importlib.import_module(f"{package}.{name}")
        for candidate in vars(module).values():
            if not isinstance(candidate, type) or not issubclass(candidate, base):
                continue
            # imported classes also stand in vars(module), and an abstract base sets no NAME
            if candidate.__module__ == module.__name__ and "NAME" in vars(candidate):
                found.append(candidate)
    return tuple(found)


def tagged_union(members: tuple[type[Any], ...]) -> Any:
    """A pydantic type that chooses a member by its `type` field; the member itself where there is only one."""
    # pydantic refuses a discriminator on something that is no union
    if len(members) == 1:
        return members[0]
    joined: Any = members[0]
    for member in members[1:]:
        joined = joined | member
    return Annotated[joined, Field(discriminator="type")]
