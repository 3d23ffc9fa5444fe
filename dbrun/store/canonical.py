"""The canonical form of a value: equal meanings, and only those, have equal hashes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import cast

from dbrun.config_types import Part

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
"""JSON data; 1, 1.0 and true stay three different values when written and read back."""


def field_names(kind: type[object]) -> tuple[str, ...] | None:
    """The field names of a Part or dataclass, None for any other class."""
    if issubclass(kind, Part):
        return tuple(kind.model_fields)
    if dataclasses.is_dataclass(kind):
        return tuple(f.name for f in dataclasses.fields(kind))
    return None


def strictly_equal(a: object, b: object) -> bool:
    """Whether two values are equal and of the same type: 1, 1.0 and True differ."""
    return type(a) is type(b) and a == b


def neutral_values(value: object) -> Mapping[str, object]:
    """The NEUTRAL table of a Part or dataclass: field → the value that switches its feature off."""
    neutral: Mapping[str, object] = getattr(type(value), "NEUTRAL", {})
    return neutral


def to_json_value(value: object) -> JsonValue:
    """value as JSON data; Parts and dataclasses become objects without the fields that have their neutral value.

    Raises TypeError for a path (a key holds contents, never places) and for any type without a canonical form;
    ValueError for NaN and infinities.
    """
    if value is None or type(value) in (str, bool, int):
        return cast("JsonValue", value)
    # Subclasses such as StrEnum and IntEnum: their plain value, so that a key does not depend on the class.
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not abs(value) < float("inf"):
            raise ValueError(f"a key cannot hold {value}")
        return float(value)
    if isinstance(value, (tuple, list)):
        return [to_json_value(v) for v in value]
    if isinstance(value, Mapping):
        return _to_json_object(value)
    names = field_names(type(value))
    if names is None:
        what = "a path" if isinstance(value, PurePath) else f"a {type(value).__name__}"
        raise TypeError(f"a key cannot hold {what}: {value!r}")
    # A new option that is switched off leaves the key as it was before the option existed: old results are found.
    neutral = neutral_values(value)
    members: dict[str, JsonValue] = {}
    for name in names:
        member = getattr(value, name)
        if name not in neutral or not strictly_equal(neutral[name], member):
            members[name] = to_json_value(member)
    return members


def _to_json_object(value: Mapping[object, object]) -> JsonValue:
    out: dict[str, JsonValue] = {}
    for name, member in value.items():
        if not isinstance(name, str):
            raise TypeError(f"a key cannot hold a mapping with the name {name!r}: names are text")
        out[str(name)] = to_json_value(member)
    return out


def canonical_json(data: JsonValue) -> bytes:
    """The canonical bytes of JSON data: names sorted, no blanks, ASCII. Raises ValueError for NaN and infinities."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(data: JsonValue) -> str:
    """sha256 of the canonical bytes, as 64 lower-case hex digits."""
    return hashlib.sha256(canonical_json(data)).hexdigest()
