"""How does a verb that failed say so, whether its words were wrong, its work, or dbrun itself?"""

from __future__ import annotations

import json
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import typer

from dbrun.errors import DbrunError, UsageError, out_of_memory
from dbrun.secrets import hidden
from dbrun.ui.terminal import complain, put

EVENTS = ("run", "stage")
"""Verbs whose --json is a line an event, a failure among them."""


def told(error: Exception, words: Sequence[str]) -> int:
    """Tell of what a verb raised, with --json to programs too; its exit code. words: the command line."""
    meant = error if isinstance(error, DbrunError) else misused(error) or bug_report(error)
    if "--json" in words and (words[0] not in EVENTS or "--dry-run" in words):
        put(json.dumps({"format_version": 1, "error": meant.as_json()}, indent=1))
    complain(meant)
    return meant.exit_code


def bug_report(error: Exception) -> DbrunError:
    """Write the traceback where it can be found, and say so."""
    with tempfile.NamedTemporaryFile("w", prefix="dbrun-", suffix=".log", delete=False) as log:
        log.write(hidden("".join(traceback.format_exception(error))))
    if out_of_memory(error):
        return DbrunError("there is not enough memory", fix=f"free some; the details are in {Path(log.name)}")
    return DbrunError(f"a bug in dbrun: {type(error).__name__}: {error}",
                      fix=f"please report it with {Path(log.name)}; no finished work is lost")


def misused(error: Exception) -> UsageError | None:
    """What is wrong with the words of a command, and how they go; None where it is another error."""
    context = getattr(error, "ctx", None)
    if not isinstance(error, typer.BadParameter.__base__ or ()) or context is None:
        return None
    words = str(error.format_message()).rstrip(".").replace(". Did", "; did").replace(" (Possible options: --help)", "")  # type: ignore[attr-defined]
    usage = f"\n  usage: {' '.join(context.get_usage().split()[1:])}" if context.parent is not None else ""
    return UsageError(f"{words[:1].lower()}{words[1:]}{usage}", fix=f"{context.command_path} --help")
