"""Rows of a table of runs: one JSON object a line, each the overrides of one run of a recipe."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dbrun.config_types import NULL_WORDS
from dbrun.errors import DbrunError, UsageError
from dbrun.input_file import read_file
from dbrun.recipe.text.spans import InvalidRecipe, Problem, Span

MAX_BYTES = 2**30
"""Size of a table at most."""
MAX_PROBLEMS = 50
"""Wrong rows that are told one by one; the rest is counted."""
EXAMPLE = 'such as {"name": "rex", "subject.images": "data/rex"}'
HINT = f"write one JSON object a line, {EXAMPLE}"
UNQUOTED = re.compile(r"""(?![\[{"'])[^\x00-\x1f\x7f\s]([^\x00-\x1f\x7f]*[^\x00-\x1f\x7f\s])?""")
"""A text that an override holds as it is; any other is written in JSON's quotes, which are YAML's too."""


@dataclass(frozen=True)
class Row:
    """One row. words: its `key=value` overrides; span: its line."""

    words: tuple[str, ...]
    span: Span

    @property
    def values(self) -> tuple[tuple[str, str], ...]:
        """Each key with its value as text."""
        pairs: list[tuple[str, str]] = []
        for word in self.words:
            key, _, value = word.partition("=")
            pairs.append((key, value))
        return tuple(pairs)

    def located(self, error: DbrunError) -> Iterator[Problem]:
        """The problems of an error of this row's run, those with its overrides at their place in the table."""
        if not isinstance(error, InvalidRecipe):
            yield Problem(self.span, "", error.message, error.fix)
            return
        for problem in error.problems:
            # a problem in a recipe file stays there
            if problem.span is None or problem.span.file is None:
                problem = replace(problem, span=self._span_of(problem))
            yield problem

    def _span_of(self, problem: Problem) -> Span:
        word = problem.span.text if problem.span else ""
        key = word.partition("=")[0] if word in self.words else problem.key
        return value_span(self.span, key) or self.span


def read_rows(path: Path) -> list[Row]:
    """The rows of a file. Blank lines are passed over. Raises InvalidRecipe with all lines that are no row.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    try:
        text = read_file(path, MAX_BYTES).decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}", fix=HINT) from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        span = Span(path, number, 1, 1, line.rstrip("\r"))
        try:
            rows.append(Row(tuple(_words(_parse(span))), span))
        except InvalidRecipe as error:
            problems += error.problems
    if not rows and not problems:
        problems.append(Problem(Span(path, 1, 1, 1, ""), "", "found no row", HINT))
    raise_if_any(problems)
    return rows


def rows_of(table: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows of data. Raises InvalidRecipe with all that are none."""
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, data in enumerate(table, start=1):
        span = Span(Path("<rows>"), number, 1, 1, "")
        try:
            rows.append(Row(tuple(_words((span, data))), span))
        except InvalidRecipe as error:
            problems += error.problems
    raise_if_any(problems)
    return rows


def raise_if_any(problems: list[Problem]) -> None:
    """Raise InvalidRecipe if there are problems, with the first MAX_PROBLEMS and the number of the rest."""
    if not problems:
        return
    # a mistake in the recipe itself comes once for each row
    different = list(dict.fromkeys(problems))
    shown = different[:MAX_PROBLEMS]
    more = len(different) - len(shown)
    if more:
        shown.append(Problem(None, "", f"{more:,} more problems"))
    raise InvalidRecipe(shown)


def value_span(line: Span, key: str) -> Span | None:
    """Span of the value of a dotted key in a line of JSON, nested or not; None where the line has no such key."""
    text, start = line.text, None
    # the whole key, else its names from the outermost to the innermost
    for names in ((key,), key.split(".")):
        start = 0
        for name in names:
            match = re.compile(re.escape(json.dumps(name, ensure_ascii=False)) + r"\s*:\s*").search(text, start)
            if match is None:
                start = None
                break
            start = match.end()
        if start is not None:
            break
    if start is None:
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return None
    return replace(line, column=start + 1, length=max(1, end - start))


def _parse(line: Span) -> tuple[Span, Mapping[str, Any]]:
    """The line and its object. Raises InvalidRecipe."""
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data = dict(pairs)
        if len(data) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            repeated.extend(key for key in data if counts[key] > 1)
        return data

    def refuse(constant: str) -> None:
        raise InvalidRecipe([Problem(line, "", f"found {constant}, which is no JSON number")])

    try:
        data = json.loads(line.text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        place = replace(line, column=error.colno)
        raise InvalidRecipe([Problem(place, "", f"no JSON: {error.msg.lower()}", HINT)]) from None
    except RecursionError:
        raise InvalidRecipe([Problem(line, "", "found values nested too deeply")]) from None
    if repeated:
        place = value_span(line, repeated[0]) or line
        raise InvalidRecipe([Problem(place, repeated[0], "found this key twice in a row", "write it once")])
    return line, data


def _words(row: tuple[Span, Any]) -> Iterator[str]:
    """The overrides of a row. Raises InvalidRecipe."""
    line, data = row
    if not isinstance(data, Mapping):
        raise InvalidRecipe([Problem(line, "", f"found {data!r:.40}, allowed: an object", EXAMPLE)])
    seen: set[str] = set()
    for key, value in _flat(data, ()):
        place = value_span(line, key) or line
        if not key or "=" in key:
            raise InvalidRecipe([Problem(place, "", f"found the key {key!r}, allowed: a key of a recipe", EXAMPLE)])
        if key in seen:
            raise InvalidRecipe([Problem(place, key, "found this key twice in a row", "write it once")])
        seen.add(key)
        word = f"{key}={_value_text(value)}"
        # of a byte that is no UTF-8, or of half a pair such as "\\ud800"
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise InvalidRecipe([Problem(line, key, "found text that is not UTF-8", "write the table as UTF-8")])
        yield word


def _flat(data: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every value that is no mapping."""
    for key, value in data.items():
        path = (*above, str(key))
        if isinstance(value, Mapping) and value:
            yield from _flat(value, path)
        else:
            yield ".".join(path), value


def _value_text(value: object) -> str:
    """A value as the text of an override; a text that would mean something else without quotes is quoted."""
    if isinstance(value, str | Path):
        text = str(value)
        if UNQUOTED.fullmatch(text) and text not in NULL_WORDS:
            return text
        return json.dumps(text, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, default=str)
