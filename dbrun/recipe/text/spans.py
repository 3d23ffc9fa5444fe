"""Where in a recipe something stands, and how a problem there is shown to a person."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from dbrun.errors import DEFAULT_WIDTH, NotFetched, RecipeError

LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
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
        return "command line:" if self.file is None else f"{display_path(self.file)}:{self.line}:{self.column}"

    def excerpt(self, width: int = DEFAULT_WIDTH) -> str:
        """The line and a caret below the place, in so many columns; a long line is cut around it."""
        # not at the top: hardly a recipe has a problem, and reading the tables of widths takes 9 ms
        from rich.cells import cell_len, set_cell_size, split_text

        start, room = self.column - 1, max(20, width - len(GUTTER))
        end = start + self.length
        before, meant, after = map(_printable, (self.text[:start], self.text[start:end], self.text[end:]))
        # what stands before the place gives way to it, though to no more than half of the room
        excess = cell_len(before) + min(cell_len(meant), room // 2) - room
        before = split_text(before, max(0, excess))[1]
        indent = cell_len(before)
        carets = max(1, min(cell_len(meant), room - indent))
        line = set_cell_size(before + meant + after, room).rstrip()
        number = "" if self.file is None else str(self.line)
        return f"  {number:>4} | {line}\n{GUTTER}{' ' * indent}{'^' * carets}"


@dataclass(frozen=True)
class Source:
    """A text that recipe nodes come from. offset: what stands before the YAML on its first line."""

    file: Path | None
    lines: tuple[str, ...]
    offset: int = 0

    @classmethod
    def from_text(cls, text: str, file: Path | None, offset: int = 0) -> Source:
        """The source with YAML's idea of lines."""
        return cls(file, tuple(LINE_BREAK.split(text)), offset)

    def span(self, line: int, column: int, length: int = 1) -> Span:
        """The place at a line and a column of the YAML, both counted from 0."""
        column += self.offset if line == 0 else 0
        text = self.lines[line] if line < len(self.lines) else ""
        return Span(self.file, line + 1, column + 1, max(1, length), text)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    key: dotted, empty where none is meant; fix: what to do about it;
    fixed_by_fetch: whether a run mends it by fetching.
    """

    span: Span | None
    key: str
    message: str
    fix: str | None = None
    fixed_by_fetch: bool = False

    def __str__(self) -> str:
        return self.render(DEFAULT_WIDTH)

    def render(self, width: int) -> str:
        """The problem with the line that it stands in, which takes so many columns."""
        words = [str(self.span)] if self.span else []
        head = " ".join([*words, f"{self.key}: {self.message}" if self.key else self.message])
        lines = [head, self.span.excerpt(width)] if self.span and self.span.text.strip() else [head]
        return "\n".join([*lines, f"  → {self.fix}"] if self.fix else lines)

    def as_json(self) -> dict[str, object]:
        """The problem as plain data; line and column count from 1 and are null where no file is meant."""
        file = self.span.file if self.span else None
        return {"file": str(file) if file else None, "line": self.span.line if self.span and file else None,
                "column": self.span.column if self.span and file else None, "key": self.key or None,
                "message": self.message, "fix": self.fix}


class InvalidRecipe(RecipeError):
    """All that is wrong with a recipe, at once, from its first line to its last; `problems` is the same as data."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(dict.fromkeys(problems), key=_sort_key))
        super().__init__(self.render(DEFAULT_WIDTH))

    def render(self, width: int) -> str:
        """All of them, the lines that they stand in cut to so many columns."""
        return "\n".join(problem.render(width) for problem in self.problems)

    def as_json(self) -> dict[str, object]:
        """The same, and each problem as data."""
        return {**super().as_json(), "problems": [problem.as_json() for problem in self.problems]}


def _sort_key(problem: Problem) -> tuple[bool, str, int, int]:
    """Files from top to bottom, then the command line as it was given."""
    place = problem.span
    if place is None or place.file is None:
        return True, "", 0, 0
    return False, str(place.file), place.line, place.column


class ProblemCollector:
    """What is wrong with a recipe, found by checks that need not wait for each other.

    origins: dotted key → where its value stands.
    """

    def __init__(self, origins: Mapping[str, Span], problems: Iterable[Problem] = ()) -> None:
        self.origins, self.problems = origins, list(problems)

    def add(self, key: str, message: str, fix: str | None = None, *, fixed_by_fetch: bool = False) -> None:
        """Note that something is wrong with the value of a key; fixed_by_fetch: as in `Problem`."""
        self.problems.append(Problem(self._span(key), key, message, fix, fixed_by_fetch))

    def attempt(self, key: str, look: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What looking gives; None where it raises RecipeError, which is noted as a problem with the key."""
        try:
            return look(*args, **kwargs)
        except InvalidRecipe as error:
            self.problems += error.problems
        except RecipeError as error:
            self.add(key, error.message, error.fix, fixed_by_fetch=isinstance(error, NotFetched))
        return None

    def _span(self, key: str) -> Span | None:
        """Where the value of a key stands, or else the nearest key above it."""
        while key and key not in self.origins:
            key = key.rpartition(".")[0]
        return self.origins.get(key)

    def raise_if_any(self) -> None:
        """Raise Problems with all of it, if there is any."""
        if self.problems:
            raise InvalidRecipe(self.problems)


def _printable(text: str) -> str:
    """A text without what moves a terminal's cursor, and without what asks for an emoji, whose width differs."""
    return "".join(c if c.isprintable() else " " for c in text if c not in "\ufe0e\ufe0f")


def display_path(path: Path) -> str:
    """The path as people expect it: relative to the current folder where it lies below it."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return str(path)
