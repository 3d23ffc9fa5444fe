"""The verb `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbrun.cli.app import app
from dbrun.errors import UsageError


@app.command()
def report(
        runs: Annotated[list[str] | None, typer.Argument(
            help="Runs: an id, a name (its newest run), a folder that a run wrote, or a pattern such as 'dog-*'. Left "
                 "out: the newest run.", metavar="RUN", show_default=False)] = None,
        output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE",
                                             help="The page to write.")] = Path("report.html"),
        serve: Annotated[bool, typer.Option("--serve", help="Show all runs of the store in a browser on this machine, "
                                            "live and read-only.")] = False,
        port: Annotated[int | None, typer.Option("--port", min=1, max=65535, metavar="N", show_default=False,
                                                 help="Port of --serve. Default: 8765, or a free one.")] = None,
        ) -> None:
    """Write a page about a run, or one that lays several side by side.

    Each run also writes its own: beside its exports, and, while it is at work, into its folder in the store.
    """
    from dbrun.cli.report import serve_reports, write_report

    if serve:
        if runs:
            raise UsageError(f"`--serve` shows all runs; found {', '.join(runs)}", fix="leave one of them out")
        serve_reports(port)
        return
    if port is not None:
        raise UsageError("`--port` needs `--serve`", fix="add --serve, or leave --port out")
    write_report(runs or [], output)
