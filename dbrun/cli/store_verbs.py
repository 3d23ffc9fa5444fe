"""The verbs for the store: `ls`, `du`, `verify`, `gc`, `pin` and `unpin`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from dbrun.cli.app import Json, app
from dbrun.cli.complete import complete_runs
from dbrun.errors import UsageError

Remote = Annotated[bool, typer.Option("--remote", help="The remote store that DBRUN_REMOTE names.")]
Run = Annotated[str, typer.Argument(help="A run's id from `dbrun runs`, or a name: the newest run of that name.",
                                    metavar="RUN|NAME", show_default=False, autocompletion=complete_runs)]


@app.command(name="ls")
def list_runs(remote: Remote = False, json: Json = False) -> None:
    """List all runs in the store; `dbrun runs` lists the last ones. With --remote: the results in the remote store."""
    if remote:
        from dbrun.cli.remote_store import list_results

        list_results(as_json=json)
        return
    from dbrun.cli.history import show_runs

    show_runs(None, None, as_json=json)


@app.command()
def du(remote: Remote = False, json: Json = False) -> None:
    """Show the disk usage of the store, and what a gc would free."""
    if remote:
        from dbrun.cli.remote_store import show_remote_usage

        show_remote_usage(as_json=json)
        return
    from dbrun.cli.store import show_usage

    show_usage(as_json=json)


@app.command()
def verify(remote: Remote = False, json: Json = False) -> None:
    """Read every byte in the store and compare it with its digest.

    What is damaged is moved to quarantine/ (with --remote: removed), and the next run that needs it makes it again.
    Exit code 5 if anything was damaged.
    """
    if remote:
        from dbrun.cli.remote_store import verify_remote_store

        is_sound = verify_remote_store(as_json=json)
    else:
        from dbrun.cli.store import verify_all

        is_sound = verify_all(as_json=json)
    if not is_sound:
        raise typer.Exit(5)


@app.command()
def gc(keep: Annotated[int | None, typer.Option("--keep", metavar="N", min=0, show_default="3",
                                                help="Keep what the last N runs of each name made.")] = None,
       remote: Remote = False,
       older_than: Annotated[int | None, typer.Option(
           "--older-than", metavar="DAYS", min=2, show_default="30",
           help="With --remote: remove what no run has used for so many days.")] = None,
       force: Annotated[bool, typer.Option(
           "--force", help="Also where another machine works in the store and locks may not reach it.")] = False,
       dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")
                          ] = False,
       json: Json = False) -> None:
    """Remove from the store what only old runs need.

    What pinned runs, running ones and the last runs of each name need is kept. Runs may go on meanwhile.
    """
    if remote:
        _refuse({"--keep": keep, "--force": force}, "the remote store knows no runs: it goes by the days without use")
        from dbrun.cli.remote_store import run_remote_gc

        run_remote_gc(older_than, dry_run=dry_run, as_json=json)
        return
    _refuse({"--older-than": older_than}, "it is for the remote store; this one goes by runs", "add --remote, or ")
    from dbrun.cli.store import run_gc
    from dbrun.store.gc import DEFAULT_KEEP

    run_gc(DEFAULT_KEEP if keep is None else keep, dry_run=dry_run, as_json=json, force=force)


def _refuse(options: Mapping[str, object], why: str, other_fix: str = "") -> None:
    """Raise UsageError for options that were given. options: name → value; other_fix: another way than leaving out."""
    given = [option for option, value in options.items() if value not in (None, False)]
    if given:
        raise UsageError(f"found {', '.join(given)}: {why}", fix=f"{other_fix}leave it out")


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
