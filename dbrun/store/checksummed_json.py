"""How does a small JSON file tell that it is still what was written?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from dbrun.store.canonical import JsonValue, digest

FORMAT_VERSION = 2
"""The `format_version` of documents with a mark; earlier ones, and those without a version, have none."""
CHECKSUM_KEY = "sha256"
"""The member that holds the digest of the others."""


def dump_checksummed(document: Mapping[str, object]) -> bytes:
    """The document as JSON, with the version of its form and the digest of all the rest in it."""
    data = cast("dict[str, JsonValue]", json.loads(json.dumps({"format_version": FORMAT_VERSION, **document})))
    return json.dumps({**data, CHECKSUM_KEY: digest(data)}).encode()


def read_checksummed(path: Path) -> dict[str, object] | None:
    """The document of a file, version and all but its mark; None where it is not whole. Raises FileNotFoundError.

    A document without a mark, as earlier versions wrote it, is taken as it is.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict):
        return None
    mark, older = data.pop(CHECKSUM_KEY, None), data.get("format_version", 1) == 1
    return data if mark == _digest(data) or (mark is None and older) else None


def _digest(data: dict[str, JsonValue]) -> str | None:
    try:
        return digest(data)
    except ValueError:
        return None
