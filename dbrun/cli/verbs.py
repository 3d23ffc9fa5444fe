"""The verbs of `dbrun`; each loads what it needs only when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbrun import __version__

app = typer.Typer(name="dbrun", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
                  help="Teach a diffusion model a subject from a handful of pictures, from a YAML recipe, "
                       "stage by stage, and get the same result again tomorrow.")

SCHEMA = Path("schemas/recipe.schema.json")
RECIPE = "The recipe, a YAML file."
OVERRIDES = "Changes to the recipe for this time, such as train.steps=400."
Recipe = Annotated[Path, typer.Argument(help=RECIPE, metavar="RECIPE", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(help=OVERRIDES, metavar="KEY=VALUE",
                                                       show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
Until = Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Nothing after this stage.")]
From = Annotated[str | None, typer.Option(
    "--from", metavar="STAGE", help="This stage and what follows; what stands above must be cached.")]
Only = Annotated[str | None, typer.Option(
    "--only", metavar="STAGE", help="This stage alone; what stands above must be cached.")]
Force = Annotated[list[str] | None, typer.Option(
    "--force", metavar="STAGE", help="Do this stage again though it is cached.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _top(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                               help="The version.")] = False) -> None:
    pass


@app.command()
def run(recipe: Recipe, overrides: Overrides = None, until: Until = None, from_: From = None, only: Only = None,
        force: Force = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and run nothing.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Write events to stdout as JSON lines.")] = False) -> None:
    """Run a recipe; the export goes to outputs/NAME/.

    Stages whose result is in the store are not run again.
    """
    from dbrun.cli.run import go, show_plan
    from dbrun.plan.selection import Selection

    selection = Selection(until=until, from_=from_, only=only, force=tuple(force or ()))
    if dry_run:
        show_plan(recipe, overrides or [], selection, as_json=json)
    else:
        go(recipe, overrides or [], selection, as_json=json)


@app.command()
def stage(name: Annotated[str, typer.Argument(help="The stage.", metavar="STAGE", show_default=False)],
          words: Annotated[list[str] | None, typer.Argument(
              help="The recipe (left out: the one last run here, else the only file in recipes/) and changes to it.",
              metavar="RECIPE|KEY=VALUE", show_default=False)] = None,
          only: Annotated[bool, typer.Option("--only", help="Refuse rather than run a stage above.")] = False,
          force: Annotated[bool, typer.Option("--force", help="Do it again though it is cached.")] = False,
          json: Annotated[bool, typer.Option("--json", help="Write events to stdout as JSON lines.")] = False) -> None:
    """Run one stage and what it needs, nothing after.

    Stages above it run only if they are not cached.
    """
    from dbrun.cli.run import go
    from dbrun.cli.words import at_hand, split
    from dbrun.plan.selection import Selection
    from dbrun.store.store import store_at_hand
    from dbrun.ui.terminal import say

    recipe, overrides = split(words or [])
    if recipe is None:
        recipe, earlier, why = at_hand(store_at_hand())
        overrides = [*earlier, *overrides]
        say(f"{' '.join(map(str, (recipe, *earlier)))}: {why}")
    selection = Selection(only=name if only else None, until=None if only else name,
                          force=(name,) if force else ())
    go(recipe, overrides, selection, as_json=json)


@app.command()
def plan(recipe: Recipe, overrides: Overrides = None, until: Until = None, from_: From = None, only: Only = None,
         force: Force = None, json: Json = False,
         exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 3 if any work is pending.")] = False,
         ) -> None:
    """Show what a run would do, and why."""
    from dbrun.cli.run import show_plan
    from dbrun.plan.selection import Selection

    selection = Selection(until=until, from_=from_, only=only, force=tuple(force or ()))
    pending = show_plan(recipe, overrides or [], selection, as_json=json)
    if exit_code and pending:
        raise typer.Exit(3)


@app.command()
def validate(files: Annotated[list[Path], typer.Argument(help="Recipes.", metavar="FILE",
                                                         show_default=False)]) -> None:
    """Check recipes; all mistakes at once."""
    from dbrun.cli.files import validate_all

    if not validate_all(files):
        raise typer.Exit(2)


@app.command()
def schema(check: Annotated[bool, typer.Option("--check", help="Compare with the file; exit 3 if it differs.")] = False,
           file: Annotated[Path, typer.Argument(help="The file to compare with.", metavar="FILE")] = SCHEMA,
           ) -> None:
    """Print the JSON Schema of recipes."""
    from dbrun.cli.files import schema_is_current
    from dbrun.recipe.schema import schema_text
    from dbrun.ui.terminal import put

    if not check:
        put(schema_text().rstrip())
    elif not schema_is_current(file):
        raise typer.Exit(3)


@app.command()
def new(name: Annotated[str, typer.Argument(help="The run's name.", metavar="NAME", show_default=False)]) -> None:
    """Write a commented starter recipe.

    It goes to recipes/NAME.yaml where there is such a folder, else to NAME.yaml.
    """
    from dbrun.cli.files import write_starter

    write_starter(name)


@app.command()
def show(adapter: Annotated[Path, typer.Argument(help="An exported .safetensors file.", metavar="ADAPTER",
                                                 show_default=False)], json: Json = False) -> None:
    """Show where an adapter file comes from."""
    from dbrun.cli.files import show_provenance

    show_provenance(adapter, as_json=json)


@app.command()
def compare(exports: Annotated[list[str], typer.Argument(
                help="Folders that runs wrote, such as outputs/sks_dog; LABEL=FOLDER names a row.",
                metavar="[LABEL=]FOLDER", show_default=False)],
            output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")] = Path("compare.png"),
            ) -> None:
    """Lay the sample pictures of several runs side by side, a row each, under the base's."""
    from dbrun.cli.files import write_comparison

    write_comparison(exports, output)
