"""What did the user write: the recipe's files, profiles and changes, without places of the machine and secrets?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.text.yaml import LOADER
from dbrun.safetensors_header import find_record, read_provenance
from dbrun.secrets import redact_secrets

ABSOLUTE_PATH = r"(?:file:|~[^\s/\\]*[/\\]|/(?=[^\s/])|(?<!:)//|[A-Za-z]:[/\\]|\\\\)"
"""How a path begins that does not start from the recipe's folder, on any system."""
STARTS_ABSOLUTE = re.compile(rf"\s*{ABSOLUTE_PATH}")
ABSOLUTE_IN_TEXT = re.compile(rf"(?:(?<=[\s'\"=,;(<>\[{{|`:])|^){ABSOLUTE_PATH}.*", re.MULTILINE)
"""Such a path among words, and what follows on its line: where it ends cannot be known, since names hold blanks."""


def recipe_as_written(loaded: LoadedRecipe, overrides: Sequence[str]) -> dict[str, object]:
    """The texts of the recipe and of those that it extends, it first; profiles; `key=value` words.

    Of a recipe that was rebuilt from an exported file, that file's name, and what its own record has of all this.
    """
    said: dict[str, object] = {"profiles": list(loaded.profiles),
                               "overrides": [_redact_override(word) for word in overrides]}
    if loaded.file_texts:
        files = [{"name": path.name, "text": redact_text(text)} for path, text in loaded.file_texts.items()]
        return {"files": files, **said}
    record = find_record(loaded.path, read_provenance(loaded.path)) or {}
    return {"rebuilt_from": {"name": loaded.path.name, "written": record.get("written")}, **said}


def redact_text(text: str) -> str:
    """A recipe's text with the last name only of each path that does not start from its folder, and without secrets.

    A comment ends where such a path begins in it.
    """
    return redact_secrets(_without_home("".join(_redact_scalars(text))))


def redact_path(path: str) -> str:
    """`…/` and the last name of a path that does not start from the recipe's folder; any other as it is."""
    if not STARTS_ABSOLUTE.match(path):
        return path
    names = [name for name in re.split(r"[/\\]", path.strip()) if name]
    return f"…/{names[-1]}" if names else "…/"


def _redact_scalars(text: str) -> Iterator[str]:
    """The text value by value; what stands between values is signs and comments."""
    done = 0
    for token in yaml.scan(text, Loader=LOADER):
        if isinstance(token, yaml.ScalarToken):
            start, end = token.start_mark.index, token.end_mark.index
            yield ABSOLUTE_IN_TEXT.sub("…", text[done:start])
            yield _redact_scalar(token, text[start:end])
            done = end
    yield ABSOLUTE_IN_TEXT.sub("…", text[done:])


def _redact_scalar(token: Any, as_it_stands: str) -> str:
    short = redact_path(token.value)
    if short == token.value:
        return as_it_stands
    return '"' + short.replace("\\", "\\\\").replace('"', '\\"') + '"' + ("\n" if as_it_stands.endswith("\n") else "")


def _redact_override(word: str) -> str:
    key, equals, value = word.partition("=")
    if value.lstrip()[:1] in ("[", "{", '"', "'"):
        return f"{key}{equals}{redact_text(value)}"
    return redact_secrets(_without_home(f"{key}{equals}{redact_path(value)}"))


def _without_home(text: str) -> str:
    home = os.environ.get("HOME", "").rstrip("/")
    return re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text) if home.startswith("/") else text
