"""Options as the tests of all of them build them: with what they need, and with other values than their defaults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from annotated_types import Ge, Gt
from pydantic import ValidationError

from dbrun.config_types import Part

TRIED = (0.5, 0.1, 0.9, 1.0, 2.0, 100.0, -0.3, 0.0, 2, 3, 10_000, True, False)
"""Values of which each setting has some that it allows."""


def smallest(kind: type[Part], **settings: object) -> Any:
    """The option with these settings; what is required besides has the least value that it allows."""
    needed = {}
    for name, field in kind.model_fields.items():
        if field.is_required() and name not in ("type", *settings):
            limits = [mark.ge if isinstance(mark, Ge) else mark.gt + 1 for mark in field.metadata
                      if isinstance(mark, (Ge, Gt))]
            needed[name] = (field.examples or limits)[0]
    return kind.model_validate({"type": kind.NAME, **needed, **settings})


def other_options(kind: type[Part], name: str) -> Iterator[Any]:
    """The option with each value of one setting, of those that are tried, that it allows and is not its default."""
    field = kind.model_fields[name]
    usual = smallest(kind)
    for value in (*get_args(field.annotation), *TRIED):
        try:
            made = smallest(kind, **{name: value})
        except ValidationError:
            continue
        if made != usual:
            yield made


def in_file_of(kind: type, base: type) -> bool:
    """Whether an option stands in the file of its base, of whose options the tests write the formulas out."""
    return kind.__module__ == base.__module__
