"""Which file defines which verb; only the file of the verb that is called is imported."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

VERB_MODULES = {
    "run_verbs": ("run", "stage", "plan"),
    "ask_verbs": ("status", "explain", "graph", "lock"),
    "history_verbs": ("runs", "logs", "diff", "doctor"),
    "recipe_verbs": ("validate", "migrate", "schema", "new"),
    "adapter_verbs": ("show", "compare"),
    "use_verbs": ("sample", "merge", "convert", "push"),
    "store_verbs": ("ls", "du", "verify", "gc", "pin", "unpin"),
}
"""File of this folder → its verbs."""


def app_for(words: Sequence[str]) -> typer.Typer:
    """The app with the verb that the words of a command line begin with; with all verbs where it is none."""
    from dbrun.cli.app import app

    home = next((file for file, verbs in VERB_MODULES.items() if words and words[0] in verbs), None)
    for file in [home] if home else VERB_MODULES:
        import_module(f"dbrun.cli.{file}")
    return app
