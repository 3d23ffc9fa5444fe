"""The Typer app that all verbs register with, and the arguments and options that several of them share."""

from __future__ import annotations

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

HELP_SECTIONS = {
    "Recipes": ("new", "validate", "schema", "migrate", "lock"),
    "Runs": ("run", "stage", "plan", "status", "explain", "graph"),
    "What ran": ("runs", "logs", "diff"),
    "What came of it": ("show", "compare", "sample", "merge", "convert", "push"),
    "The store": ("ls", "du", "verify", "gc", "pin", "unpin"),
    "This machine": ("doctor",),
}
"""How `--help` groups the verbs."""


class VerbGroup(TyperGroup):
    """The verbs under the titles that they belong to."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A section for each title that has verbs here."""
        for title, names in HELP_SECTIONS.items():
            rows = [(f"{name:<8}", self.commands[name].get_short_help_str(formatter.width)) for name in names
                    if name in self.commands]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A verb, whose arguments go by their names alone; typer would add types such as `<list[str]>`, and braces."""
        if (command := super().get_command(ctx, cmd_name)) is not None:
            for param in command.params:
                if isinstance(param, TyperArgument):
                    usage = [_usage_text(param)]
                    param.display_type = lambda ctx: ""  # type: ignore[method-assign]
                    param.get_usage_pieces = lambda ctx, usage=usage: usage  # type: ignore[method-assign,misc]
        return command


def _usage_text(argument: TyperArgument) -> str:
    """How an argument stands in the line that shows how a verb is called: what may be left out in brackets."""
    name = argument.metavar or (argument.name or "").upper()
    shown = name if argument.required or name.startswith("[") else f"[{name}]"
    return f"{shown}…" if argument.nargs != 1 and "…" not in shown else shown


app = typer.Typer(name="dbrun", cls=VerbGroup, no_args_is_help=True, rich_markup_mode=None,
                  pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
                  help="Teach a diffusion model a subject from a handful of pictures, from a YAML recipe, "
                       "stage by stage, and get the same result again tomorrow.")

RECIPE_HELP = "The recipe, a YAML file; or a .safetensors that a run exported, whose recipe is rebuilt."
OVERRIDES_HELP = "Changes to the recipe for this time, such as train.steps=400."
RecipeArgument = Annotated[Path, typer.Argument(help=RECIPE_HELP, metavar="RECIPE", show_default=False,
                                                autocompletion=complete_recipes)]
Overrides = Annotated[list[str] | None, typer.Argument(help=OVERRIDES_HELP, metavar="KEY=VALUE",
                                                       show_default=False, autocompletion=complete_keys)]
Profiles = Annotated[list[str] | None, typer.Option(
    "--profile", metavar="NAME", autocompletion=complete_profiles,
    help="Lay a profile of the recipe over it; a later one over earlier ones.")]
RecipeWords = Annotated[list[str] | None, typer.Argument(
    help="The recipe (left out: the one last run here, else the only file in recipes/) and changes to it.",
    metavar="[RECIPE] [KEY=VALUE]", show_default=False, autocompletion=complete_recipes_and_keys)]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
Until = Annotated[str | None, typer.Option("--until", metavar="STAGE", autocompletion=complete_stages,
                                           help="Nothing after this stage.")]
MaybeRecipe = Annotated[Path | None, typer.Argument(help=RECIPE_HELP, metavar="RECIPE", show_default=False,
                                                    autocompletion=complete_recipes)]
From = Annotated[str | None, typer.Option(
    "--from", metavar="STAGE", autocompletion=complete_stages,
    help="This stage and what follows; what stands above must be cached. A .safetensors that a run exported stands "
         "for RECIPE, which is then left out.")]
Only = Annotated[str | None, typer.Option(
    "--only", metavar="STAGE", autocompletion=complete_stages,
    help="This stage alone; what stands above must be cached.")]
Force = Annotated[list[str] | None, typer.Option(
    "--force", metavar="STAGE", autocompletion=complete_stages, help="Do this stage again though it is cached.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _top(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                               help="The version.")] = False) -> None:
    pass
