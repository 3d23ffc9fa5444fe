"""The verbs for the store: `ls`, `du`, `verify`, `gc`, `pin` and `unpin`."""

from __future__ import annotations

from typing import Annotated

import typer

from dbrun.cli.app import Json, app
from dbrun.cli.complete import complete_runs

Run = Annotated[str, typer.Argument(help="A run's id from `dbrun runs`, or a name: the newest run of that name.",
                                    metavar="RUN|NAME", show_default=False, autocompletion=complete_runs)]


@app.command(name="ls")
def list_runs(json: Json = False) -> None:
    """List all runs in the store; `dbrun runs` lists the last ones."""
    from dbrun.cli.history import show_runs

    show_runs(None, None, as_json=json)


@app.command()
def du(json: Json = False) -> None:
    """Show the disk usage of the store, and what a gc would free."""
    from dbrun.cli.store import show_usage

    show_usage(as_json=json)


@app.command()
def verify(json: Json = False) -> None:
    """Read every byte in the store and compare it with its digest.

    What is damaged is moved to quarantine/, and the next run that needs it makes it again. Exit code 5 if anything was
    damaged.
    """
    from dbrun.cli.store import verify_all

    if not verify_all(as_json=json):
        raise typer.Exit(5)


@app.command()
def gc(keep: Annotated[int, typer.Option("--keep", metavar="N", min=0,
                                         help="Keep what the last N runs of each name made.")] = 3,
       dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")
                          ] = False,
       json: Json = False) -> None:
    """Remove from the store what only old runs need.

    What pinned runs, running ones and the last runs of each name need is kept. Runs may go on meanwhile.
    """
    from dbrun.cli.store import run_gc

    run_gc(keep, dry_run=dry_run, as_json=json)


@app.command()
def pin(run: Run) -> None:
    """Protect the results of a run from every gc."""
    from dbrun.cli.store import set_pin

    set_pin(run, off=False)


@app.command()
def unpin(run: Run) -> None:
    """Remove the pin of a run, so that a gc may remove its results."""
    from dbrun.cli.store import set_pin

    set_pin(run, off=True)
