"""The verbs that read exports: `show` and `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbrun.cli.app import Json, app


@app.command()
def show(adapter: Annotated[Path, typer.Argument(
             help="A .safetensors file or PEFT folder of any program, or a folder that a run wrote.",
             metavar="ADAPTER", show_default=False)], json: Json = False) -> None:
    """Show what an adapter is, and how it was made.

    Type, rank, layers, base, trigger, and the programs that load it; of dbrun's own the whole provenance.
    """
    from dbrun.cli.files import show_provenance

    show_provenance(adapter, as_json=json)


@app.command()
def compare(exports: Annotated[list[str], typer.Argument(
                help="Folders that runs wrote, such as outputs/sks_dog; LABEL=FOLDER names a row.",
                metavar="[LABEL=]FOLDER", show_default=False)],
            output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE",
                                                 help="The picture to write.")] = Path("compare.png"),
            ) -> None:
    """Put the sample pictures of several runs into one picture.

    A row for each run, below a row of the base's samples.
    """
    from dbrun.cli.files import write_comparison

    write_comparison(exports, output)
