"""What can go wrong, said to a person: each kind of error carries its exit code and the way out."""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_WIDTH = 80
"""Columns that a message is written for where no screen says how many it has."""
OUT_OF_MEMORY_TEXTS = ("out of memory", "cannot allocate memory")
"""What torch says where memory is used up, on a GPU and on the CPU."""


class DbrunError(Exception):
    """A failure with a message for people; nothing else ever reaches them.

    message: what was found and what is allowed. fix: the next thing to type or change.
    """

    exit_code = 1

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def render(self, width: int) -> str:
        """The message for a screen of so many columns."""
        return self.message

    def as_json(self) -> dict[str, object]:
        """The error as plain data."""
        return {"message": self.message, "fix": self.fix, "exit_code": self.exit_code}

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.fix}" if self.fix else self.message


class UsageError(DbrunError):
    """The command line asks for something that does not exist."""

    exit_code = 2


class RecipeError(DbrunError):
    """A recipe, or a picture or model that it names, cannot be used."""

    exit_code = 2


class NotFetched(RecipeError):
    """What a recipe names is not here yet; a run fetches it."""


class StageFailed(DbrunError):
    """A stage could not finish; what it had done so far is kept."""

    exit_code = 1


class ProcessLost(StageFailed):
    """Another process that shares a stage's work does not answer any more."""


class WorkPending(DbrunError):
    """Work is left where the caller asked that none be."""

    exit_code = 3


class StoreCorrupt(DbrunError):
    """The store cannot be read or mended."""

    exit_code = 5


class Interrupted(DbrunError):
    """A signal asked to stop; the work so far is safe and the same command goes on.

    signum: the signal's number; the exit code is 128 + signum (130 Ctrl-C, 143 SIGTERM).
    """

    def __init__(self, signum: int, message: str = "interrupted; the same command goes on from here") -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum


class KeyProblem(NamedTuple):
    """Something wrong with the value of one key, before it is known where in a file the key stands.

    key: dotted, or a field's name; message: what was found and what is allowed; fix: what to do about it.
    """

    key: str
    message: str
    fix: str | None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not as much memory as was asked for."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY_TEXTS)
