"""A file system of fsspec in memory that fails at random: it lies, loses bytes, forgets and dies half way."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

from dbrun.store.remote import Mode, RemoteStore


def spoilt(data: bytes, kind: str | None, place: Callable[[int], int]) -> bytes:
    """The bytes after a fault of this kind; others leave them. place: size → a random place in so many bytes."""
    if kind == "flipped bit" and data:
        where = place(len(data))
        return data[:where] + bytes([data[where] ^ 1 << place(8)]) + data[where + 1:]
    if kind == "longer":
        return data + b"?"
    return b"<html>try later</html>" if kind == "garbage" else data


class FaultyFiles:
    """The calls that RemoteFiles makes of a file system, each of which fails with this probability.

    counts: fault → how often it was injected.
    """

    def __init__(self, seed: int, rate: float) -> None:
        self.real = MemoryFileSystem(skip_instance_cache=True)
        # the files of MemoryFileSystem belong to its class, those of this one to itself
        self.real.store, self.real.pseudo_dirs = {}, [""]
        self.random = random.Random(seed)
        self.rate = rate
        self.counts: dict[str, int] = {}
        self.stale: dict[str, Any] = {}

    def fault(self, *kinds: str) -> str | None:
        """One of these faults, or None."""
        if self.random.random() >= self.rate:
            return None
        kind = self.random.choice(kinds)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind == "404":
            raise FileNotFoundError("not found")
        if kind == "403":
            raise PermissionError("Forbidden")
        if kind == "500":
            raise OSError("[Errno 5] Internal Server Error")
        if kind == "silence":
            raise TimeoutError
        return kind

    def damaged(self, data: bytes, kind: str | None) -> bytes:
        """The bytes that arrive."""
        if kind == "cut":
            return data[: self.random.randrange(max(1, len(data)))]
        return spoilt(data, kind, self.random.randrange)

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        kind = self.fault("404", "403", "500", "silence", "cut", "flipped bit", "longer", "garbage")
        return self.damaged(self.real.cat_file(path, start=start, end=end), kind)

    def get_file(self, path: str, target: str, callback: Any) -> None:
        kind = self.fault("404", "403", "500", "silence", "cut", "flipped bit", "longer", "garbage")
        data = self.damaged(self.real.cat_file(path), kind)
        Path(target).write_bytes(data)
        callback.relative_update(len(data))

    def put_file(self, source: str, path: str, callback: Any) -> None:
        self.pipe_file(path, Path(source).read_bytes())

    def pipe_file(self, path: str, data: bytes) -> None:
        kind = self.fault("403", "500", "silence", "cut", "flipped bit", "died half way", "lost answer", "lost write")
        if kind == "lost write":
            return
        self.real.pipe_file(path, self.damaged(data, "cut" if kind == "died half way" else kind))
        if kind in ("died half way", "lost answer"):
            raise ConnectionResetError(kind)

    def find(self, path: str, detail: bool) -> dict[str, Any]:
        kind = self.fault("403", "500", "silence", "stale", "empty")
        now: dict[str, Any] = self.real.find(path, detail=detail)
        before = self.stale.get(path, {})
        self.stale[path] = now
        return {} if kind == "empty" else before if kind == "stale" else now

    def info(self, path: str) -> dict[str, Any]:
        self.fault("404", "403", "500", "silence")
        return dict(self.real.info(path))

    def rm_file(self, path: str) -> None:
        if self.fault("403", "500", "silence", "lost write") is None:
            self.real.rm_file(path)


def faulty_remote(files: FaultyFiles, mode: Mode = "rw") -> tuple[RemoteStore, list[tuple[str, str]]]:
    """A remote store of a run over these files, and the list that its messages go to, as text and level."""
    remote = RemoteStore("memory://remote", mode)
    told: list[tuple[str, str]] = []
    remote.connect(lambda stage, text, level: told.append((text, level)), lambda: 0)
    remote.files._fs = files
    return remote, told
