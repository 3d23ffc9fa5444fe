"""The axes of a sweep, `key=value,value`, and the names of its runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence

from dbrun.errors import UsageError

MAX_NAME_LENGTH = 64
"""Characters of a run's name at most."""
DIGEST_DIGITS = 8
"""Hex digits of the digest at the end of a shortened name."""


def parse_axes(sweeps: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    """The (key, value) pairs of each `key=value,value` word. Raises UsageError."""
    seen: set[str] = set()
    for word in sweeps:
        key, equals, text = word.partition("=")
        values = list(dict.fromkeys(split_values(text)))
        if not equals or not key.strip() or not all(values):
            raise UsageError(f"found --sweep {word!r}; a sweep is written key=value,value",
                             fix="write one such as --sweep train.learning_rate=1e-4,2e-4")
        if key in seen:
            raise UsageError(f"found two sweeps of {key}", fix=f"write --sweep {key}=… once, with all values")
        seen.add(key)
        yield [(key, value) for value in values]


def split_values(text: str) -> list[str]:
    """The values between commas, stripped; commas inside brackets or quotes do not separate."""
    # Not YAML: the values themselves may be YAML, `[0.9, 0.99]` for example, and are read as such later.
    values, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            values.append("")
            continue
        values[-1] += character
    return [value.strip() for value in values]


def run_name(name: str, values: Sequence[tuple[str, str]]) -> str:
    """The name of a run: the recipe's name with the swept keys and values, shortened to what a name may be."""
    if any(key == "name" for key, _ in values):
        return name
    whole = "-".join([name, *(f"{key}-{value}" for key, value in values)])
    kept = re.sub(r"[^A-Za-z0-9._-]+", "_", whole)
    if kept == whole and len(whole) <= MAX_NAME_LENGTH:
        return whole
    # Two values may differ only in what was cut or replaced; the digest of the whole keeps their names apart.
    digest = hashlib.sha256(whole.encode()).hexdigest()[:DIGEST_DIGITS]
    shortened = kept[:MAX_NAME_LENGTH - DIGEST_DIGITS - 1].rstrip("._-")
    return f"{shortened}-{digest}"
