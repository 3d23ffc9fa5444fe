"""Errors of a verb as text, JSON and exit code: wrong usage, failed work, or a bug in dbrun."""

from __future__ import annotations

import json
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import typer

from dbrun.errors import DbrunError, UsageError, is_out_of_memory
from dbrun.secrets import redact_secrets
from dbrun.ui.terminal import print_error, print_result

EVENT_VERBS = ("run", "stage")
"""Verbs whose --json is a line an event, a failure among them."""


def report_error(error: Exception, words: Sequence[str]) -> int:
    """Tell of what a verb raised, with --json to programs too; its exit code. words: the command line."""
    meant = error if isinstance(error, DbrunError) else usage_error(error) or bug_report(error)
    if "--json" in words and (words[0] not in EVENT_VERBS or "--dry-run" in words):
        print_result(json.dumps({"format_version": 1, "error": meant.as_json()}, indent=1))
    print_error(meant)
    return meant.exit_code


def bug_report(error: Exception) -> DbrunError:
    """Write the traceback where it can be found, and say so."""
    with tempfile.NamedTemporaryFile("w", prefix="dbrun-", suffix=".log", delete=False) as log:
        log.write(redact_secrets("".join(traceback.format_exception(error))))
    if is_out_of_memory(error):
        return DbrunError("there is not enough memory", fix=f"free some; the details are in {Path(log.name)}")
    return DbrunError(f"a bug in dbrun: {type(error).__name__}: {error}",
                      fix=f"please report it with {Path(log.name)}; no finished work is lost")


def usage_error(error: Exception) -> UsageError | None:
    """What is wrong with the words of a command, and how they go; None where it is another error."""
    context = getattr(error, "ctx", None)
    if not isinstance(error, typer.BadParameter.__base__ or ()) or context is None:
        return None
    words = str(error.format_message()).rstrip(".").replace(". Did", "; did").replace(" (Possible options: --help)", "")  # type: ignore[attr-defined]
    usage = f"\n  usage: {' '.join(context.get_usage().split()[1:])}" if context.parent is not None else ""
    return UsageError(f"{words[:1].lower()}{words[1:]}{usage}", fix=f"{context.command_path} --help")
