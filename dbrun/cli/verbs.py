"""Which file defines which verb; only the file of the verb that is called is imported."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

VERB_MODULES = {
    "run_verbs": ("run", "stage", "plan"),
    "job_verbs": ("jobs", "submit"),
    "ask_verbs": ("status", "explain", "graph", "lock"),
    "history_verbs": ("runs", "logs", "diff", "doctor"),
    "recipe_verbs": ("validate", "migrate", "schema", "new"),
    "adapter_verbs": ("show", "compare"),
    "report_verbs": ("report",),
    "use_verbs": ("sample", "evaluate", "merge", "convert", "push"),
    "store_verbs": ("ls", "du", "verify", "gc", "pin", "unpin"),
}
"""Module of this package → its verbs."""


def app_for(words: Sequence[str]) -> typer.Typer:
    """The app with the verb that a command line begins with; with all verbs if it begins with none."""
    from dbrun.cli.app import app

    # Importing a module registers its verbs. All of them only for `--help` and misspelt verbs, which need suggestions.
    module = next((name for name, verbs in VERB_MODULES.items() if words and words[0] in verbs), None)
    modules = [module] if module else list(VERB_MODULES)
    for name in modules:
        import_module(f"dbrun.cli.{name}")
    return app
