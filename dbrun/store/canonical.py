"""What is the one way to write a value down, so that equal meanings, and only those, have equal hashes?"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import cast

from dbrun.config_types import Part

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
"""JSON data; 1, 1.0 and true stay three different things when written and read back."""


def field_names(kind: type[object]) -> tuple[str, ...] | None:
    """The field names of a part's or dataclass's class, None for any other."""
    if issubclass(kind, Part):
        return tuple(kind.model_fields)
    if dataclasses.is_dataclass(kind):
        return tuple(f.name for f in dataclasses.fields(kind))
    return None


def strictly_equal(a: object, b: object) -> bool:
    """Equal and of equal kind: 1, 1.0 and True differ."""
    return type(a) is type(b) and a == b


def neutral_values(value: object) -> Mapping[str, object]:
    """The field values of a part or dataclass that switch a feature off, by field."""
    found: Mapping[str, object] = getattr(type(value), "NEUTRAL", {})
    return found


def to_json_value(value: object) -> JsonValue:
    """value as JSON data: parts and dataclasses become objects without their neutral fields.

    Raises TypeError for a path (contents are keyed, never places) and for whatever has no one clear form;
    ValueError for numbers that are not finite.
    """
    if value is None or type(value) in (str, bool, int):
        return cast("JsonValue", value)
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
    off = neutral_values(value)
    found = ((n, getattr(value, n)) for n in names)
    return {n: to_json_value(v) for n, v in found if n not in off or not strictly_equal(off[n], v)}


def _to_json_object(value: Mapping[object, object]) -> JsonValue:
    out: dict[str, JsonValue] = {}
    for name, member in value.items():
        if not isinstance(name, str):
            raise TypeError(f"a key cannot hold a mapping with the name {name!r}: names are text")
        out[str(name)] = to_json_value(member)
    return out


def canonical_json(data: JsonValue) -> bytes:
    """The canonical bytes of JSON data: names sorted, no blanks, ASCII."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(data: JsonValue) -> str:
    """sha256 of the canonical bytes, in hex."""
    return hashlib.sha256(canonical_json(data)).hexdigest()
