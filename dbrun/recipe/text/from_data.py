"""The text of a recipe that is given as data: messages then quote its lines, as they do of a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import yaml

from dbrun.errors import RecipeError


class _Dumper(yaml.SafeDumper):
    """Writes a value that comes twice twice: recipes have no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def recipe_text(data: Mapping[str, Any]) -> str:
    """A recipe's data as YAML. Raises RecipeError for a value that no recipe can hold."""
    plain = _plain(data, ())
    # one line for each value, however long: a message quotes the line that it is about
    return str(yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf")))


def _plain(value: Any, above: tuple[str, ...]) -> object:
    """The value as YAML has it: mappings with text as keys, lists, texts, numbers, true, false and null."""
    if value is None or isinstance(value, bool | int | float):
        return value
    # str(): a subclass, such as a member of StrEnum, is written as the text that it is
    if isinstance(value, str | PurePath):
        return str(value)
    if isinstance(value, Mapping):
        plain = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                raise _wrong(key, above, "as a key", "text")
            plain[str(key)] = _plain(inner, (*above, key))
        return plain
    if isinstance(value, list | tuple):
        return [_plain(inner, (*above, str(index))) for index, inner in enumerate(value)]
    raise _wrong(value, above, "", "text, numbers, True, False, None, paths, lists and mappings")


def _wrong(value: object, above: tuple[str, ...], role: str, allowed: str) -> RecipeError:
    place = ".".join(above) or "the recipe"
    words = f"found {value!r:.60} of the type {type(value).__name__} {role}".rstrip()
    return RecipeError(f"{place}: {words}, allowed: {allowed}")
