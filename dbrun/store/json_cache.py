"""How does a small table of recomputable facts survive crashes and writers side by side?"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Generic, TypeVar, cast

from dbrun.store.atomic import replace_file

V = TypeVar("V")
MAX_ENTRIES = 200_000
"""Entries kept; beyond it, those that this process did not use are dropped."""


class JsonCache(Generic[V]):
    """Text → JSON value, in one file that is replaced whole.

    A lost or unreadable table costs work, never correctness; so a table that cannot be written is no error.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self._path = path
        self._scratch = scratch
        self._entries: dict[str, V] | None = None
        self._used: dict[str, V] = {}
        self._changed = False

    def get(self, name: str) -> V | None:
        """The value under this name."""
        if self._entries is None:
            self._entries = self._read()
        value = self._entries.get(name)
        if value is not None:
            self._used[name] = value
        return value

    def put(self, name: str, value: V) -> None:
        """Set a value; it reaches the disk with `save`."""
        if self._entries is None:
            self._entries = self._read()
        self._entries[name] = self._used[name] = value
        self._changed = True

    def save(self) -> None:
        """Write what is new, together with what other processes wrote meanwhile."""
        if not self._changed:
            return
        merged = {**self._read(), **self._used}
        if len(merged) > MAX_ENTRIES:
            merged = self._used
        try:
            body = json.dumps(merged).encode()
            replace_file(self._path, _checksum(body) + b"\n" + body, scratch=self._scratch, durable=False)
        except OSError:
            return
        self._changed = False

    def _read(self) -> dict[str, V]:
        try:
            mark, _, body = self._path.read_bytes().partition(b"\n")
        except OSError:
            return {}
        return cast("dict[str, V]", json.loads(body)) if mark == _checksum(body) else {}


def is_intact(path: Path) -> bool:
    """Whether a table's file is what was written; one that is gone is."""
    try:
        mark, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return mark == _checksum(body)


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
