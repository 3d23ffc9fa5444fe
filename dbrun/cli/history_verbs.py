"""The verbs for runs on record and for this machine: `runs`, `logs`, `diff` and `doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from dbrun.cli import complete
from dbrun.cli.app import Json, Markdown, app, refuse_beside_markdown

RUN = "A run: its id, the beginning of its id, or a name, which means the newest run of that name."


@app.command()
def runs(name: Annotated[str | None, typer.Argument(help="Only runs of this name.", metavar="NAME",
                                                    show_default=False,
                                                    autocompletion=complete.complete_run_names)] = None,
         limit: Annotated[int, typer.Option("--limit", "-n", min=1, metavar="N", help="List at most N runs.")] = 20,
         json: Json = False, markdown: Markdown = False) -> None:
    """List the last runs: how they ended, what they did and keep."""
    from dbrun.cli.history import show_runs

    if markdown:
        refuse_beside_markdown({"--json": json})
    show_runs(name, limit, as_json=json, as_markdown=markdown)


@app.command()
def logs(run: Annotated[str | None, typer.Argument(help=RUN + " Default: the last run.", metavar="RUN",
                                                   show_default=False, autocompletion=complete.complete_runs)] = None,
         json: Json = False) -> None:
    """Show the events of a run, and its traceback if it crashed.

    Only some of many steps are shown; `--json` has all.
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
    """Check devices, memory, disk, libraries and the Hub login.

    Exit code 1 if something is wrong.
    """
    from dbrun.cli.history import show_machine

    if not show_machine(as_json=json):
        raise typer.Exit(1)
