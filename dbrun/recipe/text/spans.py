"""Where in a recipe something stands, and how a problem there is shown to a person."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from dbrun.columns import columns, fitting
from dbrun.errors import WIDTH, NotFetched, RecipeError

BREAKS = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
GUTTER = "       | "
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """A stretch of one line of a recipe file, or of a `key=value` of the command line.

    file: None on the command line; line, column: counted from 1; length: characters; text: the whole line.
    """

    file: Path | None
    line: int
    column: int
    length: int
    text: str

    def __str__(self) -> str:
        return "command line:" if self.file is None else f"{shown(self.file)}:{self.line}:{self.column}"

    def excerpt(self, width: int = WIDTH) -> str:
        """The line and a caret below the place, in so many columns; a long line is cut around it."""
        start, room = self.column - 1, max(20, width - len(GUTTER))
        end = start + self.length
        before, meant, after = map(_printed, (self.text[:start], self.text[start:end], self.text[end:]))
        # what stands before the place gives way to it, though to no more than half of the room
        needed = columns(meant[:fitting(meant, room // 2)])
        before = before[len(before) - fitting(before[::-1], room - needed):]
        line, under = before + meant + after, meant[:fitting(meant, room - columns(before))]
        number = "" if self.file is None else str(self.line)
        return (f"  {number:>4} | {line[:fitting(line, room)].rstrip()}\n"
                f"{GUTTER}{' ' * columns(before)}{'^' * max(1, columns(under))}")


@dataclass(frozen=True)
class Source:
    """A text that recipe nodes come from. offset: what stands before the YAML on its first line."""

    file: Path | None
    lines: tuple[str, ...]
    offset: int = 0

    @classmethod
    def of(cls, text: str, file: Path | None, offset: int = 0) -> Source:
        """The source with YAML's idea of lines."""
        return cls(file, tuple(BREAKS.split(text)), offset)

    def place(self, line: int, column: int, length: int = 1) -> Place:
        """The place at a line and a column of the YAML, both counted from 0."""
        column += self.offset if line == 0 else 0
        text = self.lines[line] if line < len(self.lines) else ""
        return Place(self.file, line + 1, column + 1, max(1, length), text)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    key: dotted, empty where none is meant; fix: what to do about it; fetched: whether a run mends it by fetching.
    """

    place: Place | None
    key: str
    message: str
    fix: str | None = None
    fetched: bool = False

    def __str__(self) -> str:
        return self.told(WIDTH)

    def told(self, width: int) -> str:
        """The problem with the line that it stands in, which takes so many columns."""
        words = [str(self.place)] if self.place else []
        head = " ".join([*words, f"{self.key}: {self.message}" if self.key else self.message])
        lines = [head, self.place.excerpt(width)] if self.place and self.place.text.strip() else [head]
        return "\n".join([*lines, f"  → {self.fix}"] if self.fix else lines)

    def as_json(self) -> dict[str, object]:
        """The problem as plain data; line and column count from 1 and are null where no file is meant."""
        file = self.place.file if self.place else None
        return {"file": str(file) if file else None, "line": self.place.line if self.place and file else None,
                "column": self.place.column if self.place and file else None, "key": self.key or None,
                "message": self.message, "fix": self.fix}


class Problems(RecipeError):
    """All that is wrong with a recipe, at once, from its first line to its last; `problems` is the same as data."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(dict.fromkeys(problems), key=_order))
        super().__init__(self.told(WIDTH))

    def told(self, width: int) -> str:
        """All of them, the lines that they stand in cut to so many columns."""
        return "\n".join(problem.told(width) for problem in self.problems)

    def as_json(self) -> dict[str, object]:
        """The same, and each problem as data."""
        return {**super().as_json(), "problems": [problem.as_json() for problem in self.problems]}


def _order(problem: Problem) -> tuple[bool, str, int, int]:
    """Files from top to bottom, then the command line as it was given."""
    place = problem.place
    if place is None or place.file is None:
        return True, "", 0, 0
    return False, str(place.file), place.line, place.column


class Findings:
    """What is wrong with a recipe, found by checks that need not wait for each other.

    origins: dotted key → where its value stands.
    """

    def __init__(self, origins: Mapping[str, Place], problems: Iterable[Problem] = ()) -> None:
        self.origins, self.problems = origins, list(problems)

    def add(self, key: str, message: str, fix: str | None = None, *, fetched: bool = False) -> None:
        """Note that something is wrong with the value of a key; fetched: as in `Problem`."""
        self.problems.append(Problem(self._place(key), key, message, fix, fetched))

    def attempt(self, key: str, look: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What looking gives; None where it raises RecipeError, which is noted as a problem with the key."""
        try:
            return look(*args, **kwargs)
        except Problems as error:
            self.problems += error.problems
        except RecipeError as error:
            self.add(key, error.message, error.fix, fetched=isinstance(error, NotFetched))
        return None

    def _place(self, key: str) -> Place | None:
        """Where the value of a key stands, or else the nearest key above it."""
        while key and key not in self.origins:
            key = key.rpartition(".")[0]
        return self.origins.get(key)

    def tell(self) -> None:
        """Raise Problems with all of it, if there is any."""
        if self.problems:
            raise Problems(self.problems)


def _printed(text: str) -> str:
    """A text without what moves a terminal's cursor, and without what asks for an emoji, whose width differs."""
    return "".join(c if c.isprintable() else " " for c in text if c not in "\ufe0e\ufe0f")


def shown(path: Path) -> str:
    """The path as people expect it: relative to the current folder where it lies below it."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return str(path)
