"""The verbs for runs on record and for this machine: `runs`, `logs`, `diff` and `doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from dbrun.cli import complete
from dbrun.cli.app import Json, app

RUN = "A run: its id, the beginning of it, or a name, which means its newest run."


@app.command()
def runs(name: Annotated[str | None, typer.Argument(help="Only runs of this name.", metavar="NAME",
                                                    show_default=False,
                                                    autocompletion=complete.complete_run_names)] = None,
         limit: Annotated[int, typer.Option("--limit", "-n", min=1, metavar="N", help="At most so many.")] = 20,
         json: Json = False) -> None:
    """List the last runs: how they ended, what they did and keep.

    A run that has nothing to do and sees that nothing changed is the last one over again, and no new entry.
    """
    from dbrun.cli.history import show_runs

    show_runs(name, limit, as_json=json)


@app.command()
def logs(run: Annotated[str | None, typer.Argument(help=RUN + " Left out: the last.", metavar="RUN", show_default=False,
                                                   autocompletion=complete.complete_runs)] = None,
         json: Json = False) -> None:
    """Show what a run said, and the traceback where it broke.

    Of many steps some are shown; `--json` has all.
    """
    from dbrun.cli.history import show_log

    show_log(run, as_json=json)


@app.command()
def diff(first: Annotated[str, typer.Argument(help=RUN, metavar="RUN", show_default=False,
                                          autocompletion=complete.complete_runs)],
         second: Annotated[str, typer.Argument(help=RUN, metavar="RUN", show_default=False,
                                          autocompletion=complete.complete_runs)],
         json: Json = False) -> None:
    """Show how two runs differ: recipes, stages, results."""
    from dbrun.cli.history import show_difference

    show_difference(first, second, as_json=json)


@app.command()
def doctor(json: Json = False) -> None:
    """Look at devices, memory, disk, libraries and the Hub login.

    Exit 1 if something is wrong.
    """
    from dbrun.cli.history import show_machine

    if not show_machine(as_json=json):
        raise typer.Exit(1)
