"""The verbs of many runs: `jobs` and `submit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbrun.cli.app import Json, Profiles, StoreFolder, app
from dbrun.cli.complete import complete_keys, complete_recipes_and_keys

Recipes = Annotated[list[str], typer.Argument(
    help="Recipes, and changes to all of them, such as train.steps=400.", metavar="RECIPE… [KEY=VALUE]",
    show_default=False, autocompletion=complete_recipes_and_keys)]
Sweeps = Annotated[list[str] | None, typer.Option(
    "--sweep", metavar="KEY=VALUE,VALUE", autocompletion=complete_keys,
    help="A run for each of these values; several sweeps make a grid.")]
Each = Annotated[Path | None, typer.Option(
    "--each", metavar="FILE", show_default=False,
    help="A run for each line of FILE, a JSON object of changes such as {\"name\": \"rex\", \"seed\": 1}.")]
Outputs = Annotated[Path, typer.Option("--outputs", metavar="FOLDER", help="The folder for delivered folders.")]


@app.command()
def jobs(words: Recipes, profile: Profiles = None, sweep: Sweeps = None, each: Each = None,
         outputs: Outputs = Path("outputs"), store: StoreFolder = None, json: Json = False,
         as_: Annotated[str | None, typer.Option("--as", metavar="PROGRAM", show_default=False,
                                                 help="Write them for make, snakemake or slurm.")] = None) -> None:
    """Show the jobs of many runs, with shared work once."""
    from dbrun.cli.jobs import check_form, plan_words, show_jobs

    check_form(as_, as_json=json)
    show_jobs(plan_words(words, profile, sweep, each, outputs, store), form=as_, as_json=json)


@app.command()
def submit(words: Recipes, profile: Profiles = None, sweep: Sweeps = None, each: Each = None,
           outputs: Outputs = Path("outputs"), store: StoreFolder = None,
           engine: Annotated[str, typer.Option("--engine", metavar="ENGINE", help="What runs the jobs: local, "
                                               "processes of this machine; slurm; or ray.")] = "local",
           gpus: Annotated[int | None, typer.Option(
               "--gpus", min=1, metavar="N", show_default=False,
               help="For local: GPUs to use at a time; without GPUs, processes. Default: what there is.")] = None,
           follow: Annotated[bool, typer.Option("--follow/--no-follow",
                                                help="Wait for the jobs and show how they do.")] = True,
           json: Annotated[bool, typer.Option("--json", help="Write events to stdout as JSON lines.")] = False) -> None:
    """Run the jobs of many runs that are missing.

    The same command goes on with what a failure or a stop has left.
    """
    from dbrun.cli.jobs import submit_words

    submit_words(words, profile, sweep, each, outputs, store, engine_name=engine, gpus=gpus, follow=follow,
                 as_json=json)
