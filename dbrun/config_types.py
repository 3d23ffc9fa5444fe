"""The pieces that recipe models are made of: strict frozen parts, scalars that the schema types, unions by tag."""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import cache
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


class PlainScalar(str):
    """A plain (unquoted) YAML scalar: still text, until the schema says what it is."""

    __slots__ = ()


INT_PATTERN = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT_PATTERN = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NULL_WORDS = ("", "~", "null", "Null", "NULL")


def _parse_int(value: object) -> object:
    if isinstance(value, PlainScalar) and INT_PATTERN.fullmatch(value):
        return int(value, 0) if value[:2] in ("0o", "0x") else int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("wants_int", "expected a whole number")
    return value


def _parse_float(value: object) -> object:
    if isinstance(value, PlainScalar) and FLOAT_PATTERN.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PydanticCustomError("wants_float", "expected a number")
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
    return str(value)


def _parse_null(value: object) -> object:
    return None if isinstance(value, PlainScalar) and value in NULL_WORDS else value


Int = Annotated[int, BeforeValidator(_parse_int, json_schema_input_type=int)]
Float = Annotated[float, BeforeValidator(_parse_float, json_schema_input_type=float)]
Bool = Annotated[bool, BeforeValidator(_parse_bool, json_schema_input_type=bool)]
Text = Annotated[str, BeforeValidator(_parse_text, json_schema_input_type=str)]
OrNone = BeforeValidator(_parse_null)
"""Put behind an optional field's type: `Annotated[Int | None, OrNone]` takes YAML's null."""


# Files of parts whose annotations name nothing that is imported for typing alone do without
# `from __future__ import annotations`: pydantic would parse each annotation a second time, 10 ms at every start.
class Part(BaseModel):
    """A frozen, strict piece of a recipe: an unknown key is an error.

    NEUTRAL names the field values that switch a feature off; those are left out of cache keys, so that a new
    feature does not invalidate earlier work. Defaults that do something are never neutral. A subclass names its own;
    those of the parts that it builds on hold too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, defer_build=True)
    NEUTRAL: ClassVar[dict[str, object]] = {}

    @classmethod
    def from_defaults(cls) -> Self:
        """The part of which nothing is said: its defaults, which need no check, and so no validator when it is made."""
        return cls.model_construct()

    def with_changes(self, **changes: object) -> Self:
        """A copy with other values, which are not checked again."""
        return self.model_copy(update=changes)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        above = (base.NEUTRAL for base in reversed(cls.__bases__) if issubclass(base, Part))
        cls.NEUTRAL = {name: value for named in (*above, cls.NEUTRAL) for name, value in named.items()}


P = TypeVar("P", bound=type)


@cache
def subclasses(package: str, base: type) -> tuple[type[Any], ...]:
    """The concrete subclasses of base that the files of a package define, in the order of their file names.

    Concrete means that the class itself sets `NAME`. A new file in the package is found by itself.
    """
    home = importlib.import_module(package)
    modules = sorted(m.name for m in pkgutil.iter_modules(home.__path__))
    found: list[type[Any]] = []
    for name in modules:
        module = importlib.import_module(f"{package}.{name}")
        found += [c for c in vars(module).values()
                  if isinstance(c, type) and issubclass(c, base) and "NAME" in vars(c)
                  and c.__module__ == module.__name__]
    return tuple(found)


def tagged_union(members: tuple[type[Any], ...]) -> Any:
    """A pydantic type that picks a member by its `type` tag; a lone member stands for itself."""
    if len(members) == 1:
        return members[0]
    joined: Any = members[0]
    for member in members[1:]:
        joined = joined | member
    return Annotated[joined, Field(discriminator="type")]
