"""The verbs that check and write recipes: `validate`, `migrate`, `schema` and `new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbrun.cli.app import Json, Profiles, app
from dbrun.cli.complete import complete_bases, complete_recipes, complete_recipes_and_keys

SCHEMA = Path("schemas/recipe.schema.json")
"""The file that `schema --check` compares with by default: the one of dbrun's own repository."""


@app.command()
def validate(words: Annotated[list[str], typer.Argument(help="Recipes, and key=value to lay over each.",
                                                        metavar="FILE… [KEY=VALUE]…", show_default=False,
                                                        autocompletion=complete_recipes_and_keys)],
             profile: Profiles = None,
             alone: Annotated[bool, typer.Option("--alone", help="Do not check the base and the pictures they name.")
                              ] = False,
             json: Json = False) -> None:
    """Check recipes with what they point at; all mistakes at once."""
    from dbrun.cli.files import validate_all
    from dbrun.cli.words import split_recipes
    from dbrun.errors import UsageError

    files, overrides = split_recipes(words)
    if not files:
        raise UsageError("found no recipe", fix="name one, such as dbrun validate recipes/mine.yaml")
    if not validate_all(files, overrides, profile or [], as_json=json, alone=alone):
        raise typer.Exit(2)


@app.command()
def migrate(files: Annotated[list[Path], typer.Argument(help="Recipes.", metavar="FILE",
                                                        autocompletion=complete_recipes,
                                                        show_default=False)], json: Json = False) -> None:
    """Check whether recipes use the current version of the language.

    There is only one version so far, so nothing is rewritten.
    """
    from dbrun.cli.files import migrate_all

    if not migrate_all(files, as_json=json):
        raise typer.Exit(2)


@app.command()
def schema(check: Annotated[bool, typer.Option("--check", help="Compare with the file; exit 3 if it differs.")] = False,
           file: Annotated[Path, typer.Argument(help="The file to compare with.", metavar="FILE")] = SCHEMA,
           ) -> None:
    """Print the JSON Schema of recipes."""
    from dbrun.cli.files import schema_is_current
    from dbrun.recipe.checks.json_schema import schema_text
    from dbrun.ui.terminal import print_result

    if not check:
        print_result(schema_text().rstrip())
    elif not schema_is_current(file):
        raise typer.Exit(3)


@app.command()
def new(name: Annotated[str, typer.Argument(help="The run's name.", metavar="NAME", show_default=False)],
        images: Annotated[Path | None, typer.Option("--images", metavar="FOLDER", show_default=False,
                                                    help="Your pictures; left out, those of a drawn dog.")] = None,
        base: Annotated[str | None, typer.Option("--base", metavar="BASE", show_default=False,
                                                 autocompletion=complete_bases,
                                                 help="The base: embedded, sd15, sdxl, flux1 …; a wrong word lists "
                                                      "all.")] = None,
        memory: Annotated[str | None, typer.Option("--memory", metavar="SIZE", show_default=False,
                                                   help="Memory of the graphics card, such as 12GB; left out, that of "
                                                        "this machine's.")] = None,
        word: Annotated[str | None, typer.Option("--word", metavar="WORD", show_default=False,
                                                 help="A rare word that will mean your subject, such as sks.")] = None,
        class_word: Annotated[str | None, typer.Option("--class", metavar="NOUN", show_default=False,
                                                       help="What it is one of, such as dog or woman; left out, there "
                                                            "is no prior preservation.")] = None) -> None:
    """Write a commented starter recipe that fits your base, card and pictures.

    On a terminal it asks for what is not given. It is written to recipes/NAME.yaml if the folder recipes/ exists, else
    to NAME.yaml. Then it looks at your pictures and names their problems.
    """
    from dbrun.cli.new import GivenWords, write_starter

    write_starter(name, GivenWords(images, base, memory, word, class_word))
