"""Spans of recipe text, and problems that are shown with the line where they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from dbrun.errors import DEFAULT_WIDTH, NotFetched, RecipeError

LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
VARIATION_SELECTOR = re.compile("[\ufe0e\ufe0f]")
GUTTER = "       | "
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Span:
    """A stretch of one line of a recipe file, or of a `key=value` of the command line.

    file: None on the command line; line, column: counted from 1; length: characters; text: the whole line.
    """

    file: Path | None
    line: int
    column: int
    length: int
    text: str

    def __str__(self) -> str:
        if self.file is None:
            return "command line:"
        return f"{display_path(self.file)}:{self.line}:{self.column}"

    def excerpt(self, width: int = DEFAULT_WIDTH) -> str:
        """The line with carets below the span, in `width` columns; a longer line is cut around the span."""
        # imported here: few recipes have a problem, and reading the tables of character widths takes 9 ms
        from rich.cells import cell_len, set_cell_size, split_text

        start, room = self.column - 1, max(20, width - len(GUTTER))
        end = start + self.length
        # far more than is shown, as some characters take no cell; a line can have 250,000 and thousands of problems
        reach = room * 8
        before = _printable(self.text[max(0, start - reach):start])
        marked = _printable(self.text[start:min(end, start + reach)])
        after = _printable(self.text[end:end + reach])
        # cut the text before the span only as far as the span, or at least half of the room, becomes visible
        excess = cell_len(before) + min(cell_len(marked), room // 2) - room
        _, before = split_text(before, max(0, excess))
        # cells, not characters: a Chinese character is two columns wide
        indent = cell_len(before)
        carets = max(1, min(cell_len(marked), room - indent))
        line = set_cell_size(before + marked + after, room).rstrip()
        number = "" if self.file is None else str(self.line)
        return f"  {number:>4} | {line}\n{GUTTER}{' ' * indent}{'^' * carets}"


@dataclass(frozen=True)
class Source:
    """A text that recipe nodes come from. offset: characters before the YAML on its first line, such as `key=`."""

    file: Path | None
    lines: tuple[str, ...]
    offset: int = 0

    @classmethod
    def from_text(cls, text: str, file: Path | None, offset: int = 0) -> Source:
        """The source of a text, split at YAML's line breaks."""
        # str.splitlines also splits at \v, \f and others, so its line numbers differ from the parser's
        return cls(file, tuple(LINE_BREAK.split(text)), offset)

    def span(self, line: int, column: int, length: int = 1) -> Span:
        """The span at a line and a column of the YAML, both counted from 0."""
        if line == 0:
            column += self.offset
        # the parser reports an unexpected end one line below the last
        text = self.lines[line] if line < len(self.lines) else ""
        return Span(self.file, line + 1, column + 1, max(1, length), text)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    key: dotted; empty for a problem of the whole file. fix: what to do about it. fixed_by_fetch: whether a run removes
    the problem by downloading.
    """

    span: Span | None
    key: str
    message: str
    fix: str | None = None
    fixed_by_fetch: bool = False

    def __str__(self) -> str:
        return self.render(DEFAULT_WIDTH)

    def render(self, width: int) -> str:
        """The problem as text: place, key and message; the line of the recipe, cut to `width` columns; the fix."""
        head = self.message
        if self.key:
            head = f"{self.key}: {head}"
        if self.span:
            head = f"{self.span} {head}"
        lines = [head]
        if self.span and self.span.text.strip():
            lines.append(self.span.excerpt(width))
        if self.fix:
            lines.append(f"  → {self.fix}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """The problem as plain data; line and column count from 1 and are null where it is in no file."""
        file, line, column = None, None, None
        # a line and column of the command line would mean nothing to an editor
        if self.span and self.span.file:
            file, line, column = str(self.span.file), self.span.line, self.span.column
        return {"file": file, "line": line, "column": column, "key": self.key or None, "message": self.message,
                "fix": self.fix}


class InvalidRecipe(RecipeError):
    """All problems of a recipe, without duplicates, in the order of its lines. problems: the same as data."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(dict.fromkeys(problems), key=_sort_key))
        super().__init__(self.render(DEFAULT_WIDTH))

    def render(self, width: int) -> str:
        """All problems as text; quoted lines are cut to `width` columns."""
        return "\n".join(problem.render(width) for problem in self.problems)

    def to_json(self) -> dict[str, object]:
        """The error as plain data, with each problem as data."""
        return {**super().to_json(), "problems": [problem.to_json() for problem in self.problems]}


def _sort_key(problem: Problem) -> tuple[bool, str, int, int]:
    """Sort key: problems in files by file, line and column; then those of the command line, in the order given."""
    span = problem.span
    if span is None or span.file is None:
        return True, "", 0, 0
    return False, str(span.file), span.line, span.column


class ProblemCollector:
    """Problems of a recipe from several checks, so that one failed check does not hide the others.

    origins: dotted key → span of its value.
    """

    def __init__(self, origins: Mapping[str, Span], problems: Iterable[Problem] = ()) -> None:
        self.origins, self.problems = origins, list(problems)

    def add(self, key: str, message: str, fix: str | None = None, *, fixed_by_fetch: bool = False) -> None:
        """Add a problem with the value of a key; fixed_by_fetch: as in `Problem`."""
        self.problems.append(Problem(self._span(key), key, message, fix, fixed_by_fetch))

    def attempt(self, key: str, look: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The result of look(*args, **kwargs); where it raises RecipeError, add that as a problem of the key, and None.
        """
        try:
            return look(*args, **kwargs)
        except InvalidRecipe as error:
            self.problems += error.problems
        except RecipeError as error:
            self.add(key, error.message, error.fix, fixed_by_fetch=isinstance(error, NotFetched))
        return None

    def _span(self, key: str) -> Span | None:
        """Span of the key's value, or of the nearest key above it that is written; a default is written nowhere."""
        while key and key not in self.origins:
            key = key.rpartition(".")[0]
        return self.origins.get(key)

    def raise_if_any(self) -> None:
        """Raise InvalidRecipe with all problems, if there are any."""
        if self.problems:
            raise InvalidRecipe(self.problems)


def _printable(text: str) -> str:
    """The text with a blank for each unprintable character, which could move the cursor away from the carets."""
    # variation selectors change the width of the character before them, by as much as the terminal likes
    text = VARIATION_SELECTOR.sub("", text)
    return "".join(c if c.isprintable() else " " for c in text)


def display_path(path: Path) -> str:
    """The path as text, relative to the current folder if it lies inside it."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return str(path)
