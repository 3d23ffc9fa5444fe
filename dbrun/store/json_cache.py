"""A small table of recomputable facts that survives crashes and concurrent writers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Generic, TypeVar, cast

from dbrun.store.atomic import replace_file

V = TypeVar("V")
MAX_ENTRIES = 200_000
"""Entries kept at most; above this, entries that this process did not use are dropped."""


class JsonCache(Generic[V]):
    """A mapping of text to JSON values, in one file: a line with the sha256 of the rest, then the JSON.

    A lost or damaged file costs time, never correctness. So a file that cannot be written is not an error.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self._path = path
        self._scratch = scratch
        self._entries: dict[str, V] | None = None
        self._used: dict[str, V] = {}
        self._changed = False

    def get(self, name: str) -> V | None:
        """The value under this name, None if there is none."""
        if self._entries is None:
            self._entries = self._read()
        value = self._entries.get(name)
        if value is not None:
            self._used[name] = value
        return value

    @property
    def is_empty(self) -> bool:
        """Whether there is no value at all."""
        if self._entries is None:
            self._entries = self._read()
        return not self._entries

    def put(self, name: str, value: V) -> None:
        """Set a value; `save` writes it to the disk."""
        if self._entries is None:
            self._entries = self._read()
        self._entries[name] = self._used[name] = value
        self._changed = True

    def save(self) -> None:
        """Write new values, merged with what other processes have written since."""
        if not self._changed:
            return
        # Read again without a lock: two writers at one moment may lose entries, which only costs time.
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
            checksum, _, body = self._path.read_bytes().partition(b"\n")
        except OSError:
            return {}
        # Not durable, so after a power cut the file may be empty or torn: the checksum decides.
        if checksum != _checksum(body):
            return {}
        try:
            return cast("dict[str, V]", json.loads(body))
        except (ValueError, RecursionError):
            return {}


def is_intact(path: Path) -> bool:
    """Whether the file of a JsonCache matches its checksum; True if the file does not exist."""
    try:
        checksum, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return checksum == _checksum(body)


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
