"""Errors of a verb as text, JSON and exit code: wrong usage, failed work, or a bug in dbrun."""

from __future__ import annotations

import json
import re
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import typer

from dbrun.errors import DbrunError, UsageError, is_out_of_memory
from dbrun.secrets import redact_secrets
from dbrun.ui.streams import OutputLost
from dbrun.ui.terminal import print_error, print_result

EVENT_VERBS = ("run", "stage", "submit")
"""Verbs whose --json writes events, one a line; a failure of theirs is the event run_failed."""
POSSIBLE_OPTIONS = re.compile(r" \(Possible options: ([^)]+)\)")
"""What typer says after an unknown option."""
PYDANTIC_SENTENCES = {
    re.compile("Input should be a valid integer.*"): "a whole number",
    re.compile("Input should be a valid number.*"): "a number",
    re.compile(r"Input should be greater than or equal to (\S+)"): r"at least \1",
    re.compile(r"Input should be less than or equal to (\S+)"): r"at most \1",
}
"""What pydantic says of an option's value → what is allowed, as all other messages say it."""


def report_error(error: Exception, words: Sequence[str]) -> int:
    """Print an error of a verb, with --json as JSON too; return its exit code. words: the command line."""
    reported = error if isinstance(error, DbrunError) else usage_error(error, words) or bug_report(error)
    # The verbs of events have written the failure already; with --dry-run they write no events.
    if "--json" in words and (words[0] not in EVENT_VERBS or "--dry-run" in words):
        try:
            print_result(json.dumps({"format_version": 1, "error": reported.to_json()}, indent=1))
        except OutputLost as lost:
            print_error(lost)
    print_error(reported)
    return reported.exit_code


def bug_report(error: Exception) -> DbrunError:
    """Write the traceback of an unexpected error into a temporary file; return an error that names the file."""
    with tempfile.NamedTemporaryFile("w", prefix="dbrun-", suffix=".log", delete=False) as log:
        log.write(redact_secrets("".join(traceback.format_exception(error))))
    if is_out_of_memory(error):
        return DbrunError("there is not enough memory", fix=f"free some; the details are in {Path(log.name)}")
    return DbrunError(f"a bug in dbrun: {type(error).__name__}: {error}",
                      fix=f"please report it with {Path(log.name)}; no finished work is lost")


def _found_value(error: Exception) -> str:
    """The value that pydantic refused, as the start of a message; empty where it is not known."""
    # imported here: only a wrong command line needs it
    from pydantic import ValidationError

    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return ""
    return f"found '{cause.errors()[0]['input']}', "


def usage_error(error: Exception, words: Sequence[str] = ()) -> UsageError | None:
    """A UsageError with the message and usage line of an error of typer; None for any other error.

    words: the command line, which shows what a word that is no verb was meant to do.
    """
    # The base of BadParameter is click's UsageError; typer does not export it.
    context = getattr(error, "ctx", None)
    if not isinstance(error, typer.BadParameter.__base__ or ()):
        return None
    message = str(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
    # click's sentences in the form of all other messages: one line, lower case, no full stop.
    message = message.replace(". Did", "; did").replace(" (Possible options: --help)", "")
    message = POSSIBLE_OPTIONS.sub(r"; did you mean \1?", message)
    for sentence, allowed in PYDANTIC_SENTENCES.items():
        match = sentence.search(message)
        if match:
            said = f"{_found_value(error)}allowed: {match.expand(allowed)}"
            message = message[:match.start()] + said + message[match.end():]
    message = message[:1].lower() + message[1:]
    if context is None:
        # typer's parser knows no verb where an option lacks its value, or has one too many
        return UsageError(message, fix=f"dbrun {words[0]} --help" if words else "dbrun --help")
    meant = None
    if context.parent is None and words:
        from dbrun.cli.words import meant_command

        meant = meant_command(words)
    if meant is not None:
        return UsageError(f"'{words[0]}' is not a command", fix=meant)
    if context.parent is not None:
        usage = " ".join(context.get_usage().split()[1:])
        message += f"\n  usage: {usage}"
    return UsageError(message, fix=f"{context.command_path} --help")
