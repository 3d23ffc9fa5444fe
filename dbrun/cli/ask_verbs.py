"""The verbs that show the state of a recipe: `status`, `explain`, `graph` and `lock`."""

from __future__ import annotations

from typing import Annotated

import typer

from dbrun.cli.app import Json, Overrides, Profiles, RecipeArgument, RecipeWords, app
from dbrun.cli.complete import complete_stages


@app.command()
def status(words: RecipeWords = None, profile: Profiles = None, json: Json = False) -> None:
    """Show how a recipe stands: its stages, its outputs, its last run."""
    from dbrun.cli.ask import show_status

    show_status(words or [], profile, as_json=json)


@app.command()
def explain(stage: Annotated[str, typer.Argument(help="The stage.", metavar="STAGE", show_default=False,
                                               autocompletion=complete_stages)],
            words: RecipeWords = None, profile: Profiles = None, json: Json = False) -> None:
    """Explain a stage's cache key, compared with the nearest earlier one."""
    from dbrun.cli.ask import show_explanation

    show_explanation(stage, words or [], profile, as_json=json)


@app.command()
def graph(words: RecipeWords = None, profile: Profiles = None,
          mermaid: Annotated[bool, typer.Option("--mermaid", help="Write a Mermaid flowchart.")] = False,
          json: Json = False) -> None:
    """Draw the stages of a recipe and what each needs."""
    from dbrun.cli.ask import show_graph

    show_graph(words or [], profile, mermaid=mermaid, as_json=json)


@app.command()
def lock(recipe: RecipeArgument, overrides: Overrides = None, profile: Profiles = None, json: Json = False) -> None:
    """Write a lock file: exactly what a recipe points at.

    It holds the base's commit, and digests of pictures and adapters. It stands beside the recipe, recipe.lock for
    recipe.yaml, and is of the recipe as written, without overrides. `run --locked` and `plan --locked` compare with it.
    """
    from dbrun.cli.ask import make_lock
    from dbrun.cli.words import parse_request

    make_lock(parse_request(recipe, overrides, profile), as_json=json)
