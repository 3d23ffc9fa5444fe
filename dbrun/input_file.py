"""Reading of files that others wrote: only regular files, so many bytes at most, and JSON of a bounded depth."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from io import BufferedReader

MAX_JSON_BYTES = 64 * 2**20
"""Largest JSON file in bytes; the largest that dbrun writes, a record of 100,000 pictures, is a quarter of it."""
MAX_JSON_DEPTH = 64
"""Deepest nesting of JSON; what is read is walked by functions that recurse, and Python's limit is about 1,000."""
FILE_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"))
"""Test of a file's mode → what the file is, if not a regular file or a folder."""


def open_file(path: Path) -> BufferedReader:
    """Open a regular file for reading. Raises OSError, also for a folder, a named pipe, a socket or a device.

    Opening a named pipe would wait for a writer, and reading a device may never end.
    """
    # looked at before it is opened, since opening a device can already do something
    _check_regular(path, path.stat().st_mode)
    # not blocking: the path may have become a named pipe meanwhile
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _check_regular(path, os.fstat(file.fileno()).st_mode)
    except OSError:
        file.close()
        raise
    return file


def read_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file. Raises OSError, also where there are more than max_bytes."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        # to the end: `read(max_bytes)` allocates all of them for every small file
        data = file.read() if size <= max_bytes else b""
    if max(size, len(data)) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes:,} bytes", str(path))
    return data


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value in a JSON file. Raises OSError, or ValueError for anything but JSON of at most MAX_JSON_DEPTH levels.
    """
    return parse_json(read_file(path, max_bytes))


def parse_json(text: str | bytes, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a JSON text. Raises ValueError, also for more than MAX_JSON_DEPTH levels of lists and objects.

    object_pairs_hook: makes an object of its pairs, as in `json.loads`.
    """
    try:
        value = json.loads(text, object_pairs_hook=object_pairs_hook)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    _check_depth(value)
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is no such file, or anything else in it."""
    try:
        data = read_json(path)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def parse_json_lines(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """The lines that are JSON objects: the last one is cut off where a process was killed while it wrote."""
    found: list[dict[str, Any]] = []
    for line in lines:
        try:
            data = parse_json(line)
        except ValueError:
            continue
        if isinstance(data, dict):
            found.append(data)
    return found


TOO_DEEP = f"it is nested deeper than {MAX_JSON_DEPTH} levels"


def _check_depth(value: object) -> None:
    # level by level, because a recursive check would meet the limit that it guards
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        inner: list[object] = []
        for node in level:
            if isinstance(node, dict):
                inner += [child for child in node.values() if isinstance(child, (dict, list))]
            elif isinstance(node, list):
                inner += [child for child in node if isinstance(child, (dict, list))]
        if not inner:
            return
        level = inner
    raise ValueError(TOO_DEEP)


def undecodable(name: str) -> str | None:
    r"""A name with its bytes written out, such as caf\xe9.jpg, where it is not UTF-8; None where it is.

    Neither JSON nor YAML nor the libraries that read weights take such a name.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        pass
    else:
        return None
    try:
        data = name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        # half of a surrogate pair, as an escape in JSON can write it; no system gives such a name
        return ascii(name)[1:-1]
    return data.decode(errors="backslashreplace")


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a regular file or a link to one; a link that leads nowhere or to itself is none.
    """
    try:
        return entry.is_file()
    except OSError:
        return False


def file_exists(path: Path) -> bool:
    """Whether a path is a file. Never raises: a name of over 255 bytes and a folder without permission hold none."""
    try:
        return path.is_file()
    except OSError:
        return False


def folder_exists(path: Path) -> bool:
    """Whether a path is a folder; never raises, as `file_exists`."""
    try:
        return path.is_dir()
    except OSError:
        return False


def path_exists(path: Path) -> bool:
    """Whether a path is anything at all; never raises, as `file_exists`."""
    try:
        return path.exists()
    except OSError:
        return False


def describe_kind(path: Path) -> str | None:
    """What a path is if neither a regular file nor a folder: a named pipe, a socket, a device; else None.

    A link that leads to nothing or to itself is told as such.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        if path.is_symlink():
            return "a broken link"
        return None
    return _kind(mode)


def _kind(mode: int) -> str | None:
    for is_kind, name in FILE_KINDS:
        if is_kind(mode):
            return name
    return None


def _check_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    kind = _kind(mode)
    if kind is not None:
        raise OSError(errno.EINVAL, f"it is {kind}, expected a file", str(path))
