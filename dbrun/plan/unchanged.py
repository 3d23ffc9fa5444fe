"""Has nothing changed since the same command? Answered from files alone, before any package is imported.

A command that only read, or a run that had nothing to do, leaves a record of all that it looked at
(`dbrun.plan.observed`). While every look still shows the same, it would say the same again.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence

FORMAT = 2
FOLDER = "unchanged"
FLEETING = ("_", "SHLVL", "PWD", "OLDPWD", "COLUMNS", "LINES", "WINDOWID", "OMP_WAIT_POLICY",
            "PYDANTIC_DISABLE_PLUGINS")
"""Environment variables that shells or dbrun itself change and that change no result; any other may count."""
GPUS = ("nvidia", "dxg", "kfd")
"""How the device files of GPUs begin, which `device: auto` looks for."""
STAMP = len("20260101-000000.000000-")
"""Characters of a run's id before its name."""
VERBS = ("run", "plan", "validate")
"""Those whose answers are kept."""
MOST = 200_000
"""Entries of a folder that are looked at; a record of a larger one is not kept."""


def recall(words: Sequence[str]) -> tuple[list[tuple[str, str]], int] | None:
    """What the command of these words says, as ("err" or "out", text), and its exit code, if nothing has changed."""
    root = os.environ.get("DBRUN_STORE") or ".dbrun"
    try:
        with open(os.path.join(root, FOLDER, question(words)), "rb") as file:
            record = json.loads(file.read())
        same = record["format"] == FORMAT and all(look(how, path)[0] == state for how, path, state in record["looks"])
        if not same:
            return None
        if (run := record["run"]) is not None:
            if _last_run(root, run["name"]) != run["id"]:
                return None
            _set_last(root, run["last"])
        return [(stream, text) for stream, text in record["said"]], int(record["exit_code"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def question(words: Sequence[str]) -> str:
    """A digest of all that decides on a command besides files."""
    counted = sorted((name, value) for name, value in os.environ.items() if name not in FLEETING)
    devices = sorted(name for name in os.listdir("/dev") if name.startswith(GPUS)) if os.path.isdir("/dev") else []
    asked = [FORMAT, list(words), os.getcwd(), counted, devices, sys.version, sys.prefix, sys.path,
             *(os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
               for stream in (sys.stdout, sys.stderr))]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def look(how: str, path: str) -> tuple[str, float]:
    """What a path shows, and when that last changed, in seconds of the system's clock.

    how: "bytes" of a file; "entry", what stat says of a file or of a folder itself; "tree", that of all that is in it,
    too. Raises OSError where the path is there and cannot be looked at.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "absent", _changed_above(path)
    if how == "bytes":
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest(), _changed(found)
    if how == "tree" and stat.S_ISDIR(found.st_mode):
        return _tree(path)
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        return "device", 0.0
    return _mark(found), _changed(found)


def _mark(found: os.stat_result) -> str:
    """Differs for any change of a file: an edit that puts size, time and inode back cannot put ctime back."""
    return (f"{found.st_mode:o}:{found.st_dev}:{found.st_ino}:{found.st_size}:"
            f"{found.st_mtime_ns}:{found.st_ctime_ns}")


def _changed(found: os.stat_result) -> float:
    return max(found.st_mtime, found.st_ctime)


def _changed_above(path: str) -> float:
    """When the nearest folder changed in which a missing path could come to be."""
    while not os.path.isdir(path):
        path = os.path.dirname(os.path.abspath(path))
    return _changed(os.stat(path))


def _tree(path: str) -> tuple[str, float]:
    marks, newest = hashlib.sha256(), 0.0
    for count, (name, found) in enumerate(_entries(path)):
        if count > MOST:
            raise OSError(f"too much to look at in {path}")
        newest = max(newest, _changed(found))
        if not stat.S_ISDIR(found.st_mode):
            marks.update(f"{name}\0{_mark(found)}\0".encode(errors="surrogateescape"))
    return marks.hexdigest(), newest


def _entries(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """A folder and all in it, in one order; compiled Python aside, which changes by being used."""
    yield path, os.stat(path)
    with os.scandir(path) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name == "__pycache__":
            continue
        if entry.is_dir():
            yield from _entries(entry.path)
            continue
        try:
            yield entry.path, entry.stat()
        except OSError:
            yield entry.path, entry.stat(follow_symlinks=False)


def _last_run(root: str, name: str) -> str | None:
    return max((run for run in os.listdir(os.path.join(root, "runs")) if run[STAMP:] == name), default=None)


def _set_last(root: str, text: str) -> None:
    """Let this recipe be the one last run, as the run itself would."""
    path = os.path.join(root, "last.json")
    with open(path, encoding="utf-8") as file:
        if file.read() == text:
            return
    from pathlib import Path

    from dbrun.store.disk import replace_file

    replace_file(Path(path), text.encode(), scratch=Path(root, "tmp"), durable=False)
