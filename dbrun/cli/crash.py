"""What becomes of an exception that nobody foresaw: its traceback goes to a file, its reader gets one line."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path

from dbrun.errors import DbrunError
from dbrun.secrets import hidden


def bug_report(error: Exception) -> DbrunError:
    """Write the traceback where it can be found, and say so."""
    with tempfile.NamedTemporaryFile("w", prefix="dbrun-", suffix=".log", delete=False) as log:
        log.write(hidden("".join(traceback.format_exception(error))))
    return DbrunError(f"a bug in dbrun: {type(error).__name__}: {error}",
                      fix=f"please report it with {Path(log.name)}; no finished work is lost")
