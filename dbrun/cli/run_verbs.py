"""The verbs that carry out a recipe, or show what that would do: `run`, `stage` and `plan`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from dbrun.cli.app import (
    Force,
    From,
    Json,
    Markdown,
    MaybeRecipe,
    Only,
    Overrides,
    Profiles,
    RecipeWords,
    StoreFolder,
    Until,
    app,
    refuse_beside_markdown,
)
from dbrun.cli.complete import complete_keys, complete_stages
from dbrun.errors import UsageError

Sweeps = Annotated[list[str] | None, typer.Option(
    "--sweep", metavar="KEY=VALUE,VALUE", autocompletion=complete_keys,
    help="Run each of these values; several sweeps make a grid.")]
Locked = Annotated[bool, typer.Option(
    "--locked", help="Stop with exit code 3 if the recipe does not match the lock file beside it.")]


Junit = Annotated[Path | None, typer.Option(
    "--junit", metavar="FILE", show_default=False,
    help="Write JUnit XML: a test case for each score that the recipe expects something of.")]
OutputsFolder = Annotated[Path, typer.Option("--outputs", metavar="FOLDER", help="The folder for delivered folders.")]


@app.command()
def run(recipe: MaybeRecipe = None, overrides: Overrides = None, profile: Profiles = None, sweep: Sweeps = None,
        until: Until = None, from_: From = None, only: Only = None, force: Force = None, locked: Locked = False,
        outputs: OutputsFolder = Path("outputs"), store: StoreFolder = None, junit: Junit = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and run nothing.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Write events to stdout as JSON lines.")] = False) -> None:
    """Run a recipe; the export is written to outputs/NAME/.

    Stages whose result is in the store are not run again. Exit code 4: delivered, but below what the recipe expects.
    """
    from dbrun.cli.run import refuse_below_expectation, run_recipe
    from dbrun.cli.words import parse_request_from
    from dbrun.plan.selection import Selection

    request, from_ = parse_request_from(recipe, overrides, profile, from_, store)
    selection = Selection(until=until, from_=from_, only=only, force=tuple(force or ()))
    if junit is not None and (sweep or dry_run):
        raise UsageError("`--junit` tells what became of one run", fix="leave out --sweep and --dry-run, or --junit")
    if sweep:
        _refuse_locked(locked)
        from dbrun.cli.sweep import plan_runs, refuse_blocked, run_sweep, show_sweep

        runs = plan_runs(request, sweep, selection, decode=not dry_run)
        # Before the first run: hours later is too late to learn that the last run cannot begin.
        if not dry_run:
            refuse_blocked(runs, as_json=json)
        # With --json, stdout of a real sweep has events only.
        if dry_run or not json:
            show_sweep(runs, as_json=json)
        if not dry_run:
            run_sweep(runs, selection, as_json=json, outputs=outputs)
    elif dry_run:
        from dbrun.cli.plan import show_plan

        if show_plan(request, selection, form="json" if json else "text", locked=locked, exit_code=locked):
            raise typer.Exit(3)
    else:
        done = run_recipe(request, selection, as_json=json, locked=locked, outputs=outputs, junit=junit)
        refuse_below_expectation(done)


@app.command()
def stage(name: Annotated[str, typer.Argument(help="The stage.", metavar="STAGE", show_default=False,
                                               autocompletion=complete_stages)],
          words: RecipeWords = None, profile: Profiles = None,
          only: Annotated[bool, typer.Option("--only", help="Stop if a stage before it is not cached.")] = False,
          force: Annotated[bool, typer.Option("--force", help="Run it again even if it is cached.")] = False,
          locked: Locked = False, outputs: OutputsFolder = Path("outputs"), store: StoreFolder = None,
          json: Annotated[bool, typer.Option("--json", help="Write events to stdout as JSON lines.")] = False) -> None:
    """Run one stage and what it needs, nothing after.

    The stages before it run only if they are not cached.
    """
    from dbrun.cli.run import refuse_below_expectation, run_recipe
    from dbrun.cli.words import check_stage, request_or_default
    from dbrun.plan.selection import Selection
    from dbrun.store.store import current_store
    from dbrun.ui.terminal import print_status

    check_stage(name)
    request, why = request_or_default(words or [], profile, current_store(store), store)
    if why is not None:
        print_status(why)
    forced = (name,) if force else ()
    if only:
        selection = Selection(only=name, force=forced)
    else:
        selection = Selection(until=name, force=forced)
    refuse_below_expectation(run_recipe(request, selection, as_json=json, locked=locked, outputs=outputs))


def _refuse_locked(locked: bool) -> None:
    if locked:
        raise UsageError("`--locked` compares one recipe, and a sweep is several", fix="leave one of them out")


def _refuse_beside_memory(options: Mapping[str, object]) -> None:
    """Raise UsageError for options that ask for something else than memory. options: name → its value."""
    given = ", ".join(option for option, value in options.items() if value)
    if given:
        raise UsageError(f"`--memory` and `--device` count the memory of one recipe's stages; found {given}",
                         fix=f"leave {given} out")


@app.command()
def plan(recipe: MaybeRecipe = None, overrides: Overrides = None, profile: Profiles = None, sweep: Sweeps = None,
         until: Until = None, from_: From = None, only: Only = None, force: Force = None, json: Json = False,
         store: StoreFolder = None,
         locked: Annotated[bool, typer.Option("--locked", help="Compare with the lock file of the recipe.")] = False,
         exit_code: Annotated[bool, typer.Option(
             "--exit-code", help="Exit code 3 if work is pending; with --locked, if the recipe does not match its "
                                 "lock.")] = False,
         pictures: Annotated[bool, typer.Option("--pictures", help="Show each picture: its size and shape, what is cut "
                                                "off, its prompt, and whether it is blurred, tiny, black or a "
                                                "duplicate.")] = False,
         output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE.png", show_default=False,
                                                     help="With --pictures: draw what the crop leaves of each picture, "
                                                     "with its prompt and what is odd.")] = None,
         memory: Annotated[bool, typer.Option("--memory", help="Count the memory of each stage on this machine; takes "
                                              "seconds.")] = False,
         markdown: Markdown = False,
         device: Annotated[str | None, typer.Option("--device", metavar="DEVICE", show_default=False,
                                                    help="Count it for another device, such as cuda:24GB.")] = None,
         ) -> None:
    """Show what a run would do, and why."""
    from dbrun.cli.plan import Form, show_plan
    from dbrun.cli.words import parse_request_from
    from dbrun.plan.selection import Selection

    request, from_ = parse_request_from(recipe, overrides, profile, from_, store)
    if markdown:
        refuse_beside_markdown({"--json": json, "--pictures": pictures, "--memory": memory, "--device": device,
                                "--sweep": sweep})
    if pictures:
        from dbrun.cli.pictures import show_pictures

        # Refused, not ignored: who writes `--pictures --locked` expects a comparison.
        stage_options = {"--sweep": sweep, "--until": until, "--from": from_, "--only": only, "--force": force,
                         "--exit-code": exit_code, "--locked": locked}
        given = ", ".join(option for option, value in stage_options.items() if value)
        if given:
            raise UsageError(f"`--pictures` shows the pictures that training takes, and no stages; found {given}",
                             fix=f"leave {given} out")
        show_pictures(request, output, as_json=json)
        return
    if output is not None:
        raise UsageError("`-o` is the sheet of `--pictures`", fix="add --pictures, or leave it out")
    selection = Selection(until=until, from_=from_, only=only, force=tuple(force or ()))
    if memory or device:
        _refuse_beside_memory({"--sweep": sweep, "--exit-code": exit_code, "--locked": locked})
        from dbrun.cli.plan import show_memory

        show_memory(request, selection, device, as_json=json)
        return
    if sweep:
        _refuse_locked(locked)
        from dbrun.cli.sweep import plan_runs, show_sweep

        has_pending = show_sweep(plan_runs(request, sweep, selection), as_json=json)
        code = 3 if has_pending and exit_code else 0
    else:
        form: Form = "markdown" if markdown else "json" if json else "text"
        code = show_plan(request, selection, form=form, locked=locked, exit_code=exit_code)
    if code:
        raise typer.Exit(code)
