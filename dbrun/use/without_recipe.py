"""Error messages for commands that have no recipe: they name options instead of a recipe's keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from dbrun.errors import DbrunError

OPTIONS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"`base\.path` and `base\.variant`"), "`--base`"),
    (re.compile(r"`base\.path`"), "`--base`"),
    (re.compile(r"`base\.revision`"), "what stands behind @ in `--base`"),
    (re.compile(r"`base\.type: (\w+)`"), r"a base of type \1"),
    (re.compile(r"leave this format out of `export`"), "choose another format with `--to`"),
    (re.compile(r"`adapt\.(\w+)(\.\w+)?`"), r"the \1"))
"""Words for a recipe's key → what the command line has instead."""


@contextmanager
def without_recipe_keys() -> Iterator[None]:
    """Context manager: every DbrunError of the block speaks of options of the command line."""
    try:
        yield
    except DbrunError as error:
        error.message = in_options(error.message)
        if error.fix:
            error.fix = in_options(error.fix)
        # The text that a traceback or a log shows.
        error.args = (error.message,)
        raise


def in_options(text: str) -> str:
    """The text with the recipe's keys replaced."""
    for pattern, words in OPTIONS:
        text = pattern.sub(words, text)
    return text
