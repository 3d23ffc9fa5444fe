"""A guard inside of which nothing may be done: no program started, no module loaded that is not known, no file written.

Python itself tells of each by its audit events, whoever asks for it, in C as well.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

DONE = ("subprocess.", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.startfile", "os.kill",
        "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
        "os.chown", "os.putenv", "os.unsetenv", "os.utime", "os.chdir", "shutil.", "tempfile.", "socket.", "urllib.",
        "http.", "ftplib.", "smtplib.", "ctypes.", "webbrowser.", "pty.", "signal.", "sqlite3.", "pickle.", "code.")
"""How the names of events begin that change something, or reach out of the process."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
HOME = Path(__file__).parents[1] / "dbrun"
OWN = {".".join(("dbrun", *path.relative_to(HOME).with_suffix("").parts)).removesuffix(".__init__")
       for path in HOME.rglob("*.py")}
READERS = {"yaml", "pydantic", "pydantic_core", "omegaconf", "antlr4", "typing_extensions", "annotated_types",
           "typing_inspection"}
"""Packages that read a recipe; any module of another is one that the recipe asked for."""
PLACES = (str(HOME), sysconfig.get_path("stdlib"),
          *(spec.origin.removesuffix("__init__.py") for name in READERS if (spec := find_spec(name)) and spec.origin))
"""Where the code of these stands."""
# omegaconf brings others with it when it is first asked for
importlib.import_module("omegaconf")
CLASS_MAKERS = (collections.__file__, dataclasses.__file__)
_watching: list[list[str]] = []


@contextmanager
def nothing_done() -> Iterator[None]:
    """Fail where anything was done inside."""
    if not getattr(_hear, "hooked", False):
        sys.addaudithook(_hear)
        _hear.hooked = True  # type: ignore[attr-defined]
    done: list[str] = []
    _watching.append(done)
    try:
        yield
    finally:
        _watching.remove(done)
        assert not done, f"what was done: {done}"


def _hear(event: str, args: tuple[object, ...]) -> None:
    if _watching and (what := _offence(event, args)):
        for done in _watching:
            done.append(what)


def _offence(event: str, args: tuple[object, ...]) -> str | None:
    if event == "open":
        path, mode, flags = args
        asked = mode if isinstance(mode, str) else ""
        writes = set("wax+") & set(asked) or (isinstance(flags, int) and flags & WRITES)
        return f"open {path!r} to write" if writes else None
    if event == "import":
        name = str(args[0])
        root = name.partition(".")[0]
        known = name in OWN if root == "dbrun" else root in READERS or root in sys.stdlib_module_names
        return None if known else f"import {name}"
    if event == "exec":
        file = str(getattr(args[0], "co_filename", ""))
        # named tuples and data classes are made by text that Python itself writes
        written_by_python = sys._getframe(2).f_code.co_filename in CLASS_MAKERS
        return None if written_by_python or file.startswith(("<frozen", *PLACES)) else f"exec of {file}"
    return f"{event} {args!r}" if event.startswith(DONE) else None
