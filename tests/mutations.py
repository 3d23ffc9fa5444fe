"""Seeded mutations of files: bytes that are flipped, cut, doubled or replaced, and JSON with values of other types."""

from __future__ import annotations

import json
import random
from typing import Any

TOKENS = (b"null", b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"9" * 400, b'"', b"'", b"[", b"]", b"{", b"}", b",",
          b":",
          b"\n", b"\r", b"\r\n", b"\t", b"\x00", b"\x1b[31m", b"\x9b", b"\x7f", b"\xff", b"\xc3", b"\xe2\x80\xa8",
          b"\xef\xbb\xbf", b"\\ud800", b"\\u0000", b"..", b"/", b"../../etc/passwd", b"${", b"!!x", b"&a", b"*a", b"<<",
          b"- ", b": ", b"true", b"[" * 2000, b'{"a":' * 2000, b" " * 3000)
"""Pieces that parsers of CSV, JSON and YAML treat in a special way."""
VALUES: tuple[Any, ...] = (None, True, 0, -1, 1e308, float("nan"), float("inf"), 2**70, "", "x", "\ud800", "\x1b[31m",
                           "../..", [], {}, [None], [[]], {"": None}, ["a"] * 50, {"a": {"b": []}})
"""Values of every type, to stand where others are expected."""


def mutate(data: bytes, chance: random.Random) -> bytes:
    """The bytes after one to four mutations."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice((1, 1, 4, 40)))
        match chance.randrange(6):
            case 0:
                data = data[:start] + bytes([chance.randrange(256)]) + data[start + 1:]
            case 1:
                data = data[:start] + data[end:]
            case 2:
                data = data[:start] + data[start:end] * chance.randint(2, 5) + data[end:]
            case 3:
                data = data[:start] + chance.choice(TOKENS) + data[end:]
            case 4:
                data = data[:start] + chance.choice(TOKENS) + data[start:]
            case 5 if chance.random() < 0.2:
                data = data[:start]
    return data


def mutate_json(text: bytes, chance: random.Random) -> bytes:
    """A JSON text in which some values have other types, or whose bytes are mutated."""
    if chance.random() < 0.4:
        return mutate(text, chance)
    document = json.loads(text)
    for _ in range(chance.randint(1, 3)):
        document = _with_other_value(document, chance)
    return json.dumps(document).encode()


def _with_other_value(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        if chance.random() < 0.1:
            return {name: inner for name, inner in value.items() if name != key}
        return {**value, key: _with_other_value(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        place = chance.randrange(len(value))
        return [*value[:place], _with_other_value(value[place], chance), *value[place + 1:]]
    return chance.choice(VALUES)
