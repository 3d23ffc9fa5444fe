"""The Typer app that all verbs register with, and the arguments and options that several of them share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperGroup

from dbrun import __version__
from dbrun.cli.complete import (
    complete_keys,
    complete_profiles,
    complete_recipes,
    complete_recipes_and_keys,
    complete_stages,
)
from dbrun.errors import UsageError

HELP_SECTIONS = {
    "Recipes": ("new", "validate", "schema", "migrate", "lock"),
    "Runs": ("run", "stage", "plan", "status", "explain", "graph"),
    "Many runs": ("jobs", "submit"),
    "What ran": ("runs", "logs", "diff"),
    "Results": ("report", "show", "compare", "sample", "evaluate", "merge", "convert", "push"),
    "The store": ("ls", "du", "verify", "gc", "pin", "unpin"),
    "This machine": ("doctor",),
}
"""Title of a section of `--help` → its verbs."""


class VerbGroup(TyperGroup):
    """The command group `dbrun`: lists its verbs in the sections of HELP_SECTIONS."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section of `--help` for each title that has verbs."""
        # A verb may be missing: only the file of the verb that is called is imported.
        for title, names in HELP_SECTIONS.items():
            rows = [(f"{name:<8}", self.commands[name].get_short_help_str(formatter.width)) for name in names
                    if name in self.commands]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a verb, None if there is none; its usage line shows arguments by name only."""
        command = super().get_command(ctx, cmd_name)
        if command is None:
            return None
        # Replaced on the objects, because typer has no setting: it adds types such as `<list[str]>`, and braces.
        for param in command.params:
            if isinstance(param, TyperArgument):
                usage = [_usage_text(param)]
                param.display_type = lambda ctx: ""  # type: ignore[method-assign]
                param.get_usage_pieces = lambda ctx, usage=usage: usage  # type: ignore[method-assign,misc]
        return command


def _usage_text(argument: TyperArgument) -> str:
    """An argument in a usage line: in brackets if it is optional, with `…` if it may be repeated."""
    text = argument.metavar or (argument.name or "").upper()
    if not argument.required and not text.startswith("["):
        text = f"[{text}]"
    if argument.nargs != 1 and "…" not in text:
        text = f"{text}…"
    return text


app = typer.Typer(name="dbrun", cls=VerbGroup, no_args_is_help=True, rich_markup_mode=None,
                  pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
                  help="Teach a diffusion model a subject from a handful of pictures, from a YAML recipe, "
                       "stage by stage, and get the same result again tomorrow.")

RECIPE_HELP = ("The recipe: a YAML file; the name of one here, or of one that comes with dbrun, such as sks_dog; - for "
               "standard input; or a .safetensors that a run exported, whose recipe is rebuilt.")
OVERRIDES_HELP = "Changes to the recipe for this command only, such as train.steps=400."
RecipeArgument = Annotated[Path, typer.Argument(help=RECIPE_HELP, metavar="RECIPE", show_default=False,
                                                autocompletion=complete_recipes)]
Overrides = Annotated[list[str] | None, typer.Argument(help=OVERRIDES_HELP, metavar="KEY=VALUE",
                                                       show_default=False, autocompletion=complete_keys)]
Profiles = Annotated[list[str] | None, typer.Option(
    "--profile", metavar="NAME", autocompletion=complete_profiles,
    help="Apply a profile of the recipe; a later profile overrides an earlier one.")]
RecipeWords = Annotated[list[str] | None, typer.Argument(
    help="The recipe (left out: the one last run here, else the only one in recipes/ or here) and changes to it.",
    metavar="[RECIPE] [KEY=VALUE]", show_default=False, autocompletion=complete_recipes_and_keys)]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Write Markdown to stdout, for the summary of a CI job.")]
Until = Annotated[str | None, typer.Option("--until", metavar="STAGE", autocompletion=complete_stages,
                                           help="Run no stage after this one.")]
MaybeRecipe = Annotated[Path | None, typer.Argument(help=f"{RECIPE_HELP} Left out: the only one in recipes/ or here.",
                                                    metavar="RECIPE",
                                                    show_default=False, autocompletion=complete_recipes)]
From = Annotated[str | None, typer.Option(
    "--from", metavar="STAGE", autocompletion=complete_stages,
    help="Run this stage and those after it; the stages before it must be cached. Or a .safetensors that a run "
         "exported, in place of RECIPE.")]
Only = Annotated[str | None, typer.Option(
    "--only", metavar="STAGE", autocompletion=complete_stages,
    help="Run this stage alone; the stages before it must be cached.")]
StoreFolder = Annotated[Path | None, typer.Option(
    "--store", metavar="FOLDER", show_default=False,
    help="The store of results. Default: $DBRUN_STORE, else .dbrun.")]
Force = Annotated[list[str] | None, typer.Option(
    "--force", metavar="STAGE", autocompletion=complete_stages, help="Run this stage again even if it is cached.")]


def refuse_beside_markdown(options: Mapping[str, object]) -> None:
    """Raise UsageError for options that `--markdown` cannot show. options: name → its value."""
    given = ", ".join(option for option, value in options.items() if value)
    if given:
        raise UsageError(f"`--markdown` cannot be combined with {given}",
                         fix=f"leave out {given} or --markdown")


def _version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _top(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                               help="Print the version of dbrun.")] = False) -> None:
    pass
