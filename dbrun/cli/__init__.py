"""The command line: words in, exit codes out."""

from __future__ import annotations

import gc
import os
import sys

EXIT_INTERRUPTED = 130
"""The exit code after Ctrl-C, which typer makes of it, too."""


def main() -> None:
    """Run `dbrun`; every failure ends in a message for people and an exit code, never in a traceback."""
    try:
        _run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


def _run() -> None:
    # a tenth of a reading verb's time went into collecting garbage of imports, which hardly is any
    gc.disable()
    # and another into asking all installed packages whether they extend pydantic
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from dbrun.cli.verbs import app_for

    words = sys.argv[1:] or ["--help"]
    try:
        # what a verb leaves with; a wrong command line is told of below, as every other error is
        code = app_for(words)(words, prog_name="dbrun", standalone_mode=False)
        if code == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            sys.exit(code)
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:
        from dbrun.cli.crash import report_error

        sys.exit(report_error(error, words))
    finally:
        # what is left would be searched once more at the end
        gc.freeze()
