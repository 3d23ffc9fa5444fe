"""The recipe's files, profiles and overrides as the user wrote them, without absolute paths and secrets."""

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
"""The beginning of a path that is not relative to the recipe's folder, on any system."""
STARTS_ABSOLUTE = re.compile(rf"\s*{ABSOLUTE_PATH}")
ABSOLUTE_IN_TEXT = re.compile(rf"(?:(?<=[\s'\"=,;(<>\[{{|`:])|^){ABSOLUTE_PATH}.*", re.MULTILINE)
"""Such a path within text, and the rest of its line: names may hold blanks, so its end cannot be known."""
PATH_IN_MESSAGE = re.compile(r"(?<![^\s'\"=,;(<\[{|`:])(?:/[^\s/'\"`,;:)\]}>]+){2,}/?")
"""An absolute path in a message, up to a blank or a mark of the sentence; a single name, such as `/`, is none."""


def recipe_as_written(loaded: LoadedRecipe, overrides: Sequence[str]) -> dict[str, object]:
    """The redacted texts of the recipe and of the recipes it extends (the recipe first), profiles and overrides.

    For a recipe that was rebuilt from an exported file: that file's name, and the same facts from its own record.
    """
    redacted_overrides = [_redact_override(word) for word in overrides]
    choices: dict[str, object] = {"profiles": list(loaded.profiles), "overrides": redacted_overrides}
    if loaded.file_texts:
        files = [{"name": path.name, "text": redact_text(text)} for path, text in loaded.file_texts.items()]
        return {"files": files, **choices}
    record = find_record(loaded.path, read_provenance(loaded.path)) or {}
    return {"rebuilt_from": {"name": loaded.path.name, "written": record.get("written")}, **choices}


def redact_text(text: str) -> str:
    """A recipe's text without secrets, each absolute path shortened to its last name.

    A comment is cut where an absolute path begins in it.
    """
    without_paths = "".join(_redact_scalars(text))
    return redact_secrets(_without_home(without_paths))


def redact_message(text: str) -> str:
    """A message for people without secrets, each absolute path in it shortened to its last name."""
    return redact_secrets(_without_home(PATH_IN_MESSAGE.sub(lambda match: redact_path(match[0]), text)))


def redact_path(path: str) -> str:
    """`…/` and the last name of an absolute path; a relative path unchanged."""
    if not STARTS_ABSOLUTE.match(path):
        return path
    names = [name for name in re.split(r"[/\\]", path.strip()) if name]
    return f"…/{names[-1]}" if names else "…/"


def _redact_scalars(text: str) -> Iterator[str]:
    """The redacted text in pieces: YAML scalars, and what is between them (punctuation and comments)."""
    # Tokens, not parsed data: the user's layout and comments are to be kept.
    done = 0
    for token in yaml.scan(text, Loader=LOADER):
        if isinstance(token, yaml.ScalarToken):
            start, end = token.start_mark.index, token.end_mark.index
            yield ABSOLUTE_IN_TEXT.sub("…", text[done:start])
            yield _redact_scalar(token, text[start:end])
            done = end
    yield ABSOLUTE_IN_TEXT.sub("…", text[done:])


def _redact_scalar(token: Any, source: str) -> str:
    """A scalar with its path shortened. source: its characters in the file, quotes and indicators included."""
    short = redact_path(token.value)
    if short == token.value:
        return source
    escaped = short.replace("\\", "\\\\").replace('"', '\\"')
    # A block scalar (`|` or `>`) takes its line end with it; without one the next key would join this line.
    line_end = "\n" if source.endswith("\n") else ""
    return f'"{escaped}"{line_end}'


def _redact_override(word: str) -> str:
    key, equals, value = word.partition("=")
    # A list, mapping or quoted text can hold paths further in; those are found by reading it as YAML.
    if value.lstrip()[:1] in ("[", "{", '"', "'"):
        return f"{key}{equals}{redact_text(value)}"
    return redact_secrets(_without_home(f"{key}{equals}{redact_path(value)}"))


def _without_home(text: str) -> str:
    home = os.environ.get("HOME", "").rstrip("/")
    if not home.startswith("/"):
        return text
    return re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)
