"""The command line: words in, exit codes out."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `dbrun`; every failure ends in a message for people and an exit code, never in a traceback."""
    try:
        _run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


def _run() -> None:
    from dbrun.cli.verbs import app_for
    from dbrun.errors import DbrunError
    from dbrun.ui.terminal import complain

    try:
        app_for(sys.argv[1:])()
    except DbrunError as error:
        complain(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:
        from dbrun.cli.crash import bug_report

        complain(bug_report(error))
        sys.exit(1)
