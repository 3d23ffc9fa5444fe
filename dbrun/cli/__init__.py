"""The command line: words in, exit codes out."""

from __future__ import annotations

import gc
import os
import sys

EXIT_INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 + SIGINT. typer returns the same one."""


def main() -> None:
    """The entry point `dbrun`: run a verb; every failure becomes a message and an exit code, never a traceback."""
    # told before the first import that only these systems have
    if sys.platform == "win32":
        sys.exit("dbrun runs on Linux and macOS; on Windows install it inside WSL: "
                 "https://learn.microsoft.com/windows/wsl/install")
    from dbrun.ui.streams import guard_streams

    try:
        guard_streams()
        _run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader (`head`, `less`) has gone: end as SIGPIPE would, and let Python's shutdown not complain.
        sys.stderr.close()
        sys.exit(141)


def _run() -> None:
    # A tenth of a reading verb's time went into garbage collection during imports, which make hardly any garbage.
    gc.disable()
    # Another tenth went into asking all installed packages whether they extend pydantic.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from dbrun.cli.verbs import app_for

    words = sys.argv[1:] or ["--help"]
    try:
        _check_utf8(words)
        # Not standalone: typer then raises a wrong command line instead of printing it, and it is reported below,
        # with --json as JSON, like every other error.
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
        # At exit Python collects once more; frozen objects are left out of that.
        gc.freeze()


def _check_utf8(words: list[str]) -> None:
    """Raise UsageError for a word that is not UTF-8: no record, lock or header could hold it."""
    from dbrun.errors import UsageError
    from dbrun.input_file import undecodable

    for word in words:
        shown = undecodable(word)
        if shown is not None:
            fix = "rename the file" if sys.getfilesystemencoding() == "utf-8" else "export PYTHONUTF8=1"
            raise UsageError(f"found {shown} on the command line, which is not UTF-8", fix=fix)
