"""The command line: words in, exit codes out."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run `dbrun`; every failure ends in a message for people and an exit code, never in a traceback."""
    try:
        if not _said_again(sys.argv[1:]):
            _run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


def _said_again(words: list[str]) -> bool:
    """Answer a run that has nothing to do as it was answered before, if nothing has changed since."""
    if words[:1] != ["run"] or "RANK" in os.environ:
        return False
    from dbrun.plan.unchanged import recall
    from dbrun.ui.terminal import put, say

    if (answer := recall(words)) is None:
        return False
    say(answer[0], end="")
    put(answer[1], end="")
    return True


def _run() -> None:
    # a tenth of a reading verb's time went into collecting garbage of imports, which hardly is any
    gc.disable()
    # and another into asking all installed packages whether they extend pydantic
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
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
