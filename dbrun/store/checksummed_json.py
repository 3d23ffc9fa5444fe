"""Small JSON files that hold their own digest, so that a changed byte is found when they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from dbrun.input_file import MAX_JSON_BYTES, parse_json, read_file
from dbrun.store.canonical import JsonValue, digest

FORMAT_VERSION = 2
"""The `format_version` of documents with a checksum; documents of version 1, or without a version, have none."""
CHECKSUM_KEY = "sha256"
"""The member that holds the digest of all other members."""


def dump_checksummed(document: Mapping[str, object]) -> bytes:
    """The document as JSON bytes, with `format_version` and the digest of all other members added."""
    # Through JSON and back first: the digest must be of what a reader will get (tuples become lists).
    text = json.dumps({"format_version": FORMAT_VERSION, **document})
    data = cast("dict[str, JsonValue]", json.loads(text))
    return json.dumps({**data, CHECKSUM_KEY: digest(data)}).encode()


def read_checksummed(path: Path) -> dict[str, object] | None:
    """The document in a file without its checksum; None if it is damaged. Raises FileNotFoundError.

    A document without a checksum, as earlier versions of dbrun wrote them, is returned unchecked.
    """
    try:
        data = read_file(path, MAX_JSON_BYTES)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    return parse_checksummed(data)


def parse_checksummed(text: bytes) -> dict[str, object] | None:
    """The document in JSON bytes, as `read_checksummed` gives that of a file; None if it is damaged."""
    try:
        data = parse_json(text)
    except ValueError:
        return None
    if not isinstance(data, dict):
        return None
    checksum = data.pop(CHECKSUM_KEY, None)
    is_old_format = data.get("format_version", 1) == 1
    if checksum is None and is_old_format:
        return data
    return data if checksum == _digest(data) else None


def _digest(data: dict[str, JsonValue]) -> str | None:
    # Damage can turn a number into NaN, which JSON readers accept and `digest` refuses.
    try:
        return digest(data)
    except ValueError:
        return None
