"""Exceptions with a message for people: each kind has an exit code and can carry a fix."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import NamedTuple

DEFAULT_WIDTH = 80
"""Columns of a message where the width of the terminal is not known."""
OUT_OF_MEMORY_TEXTS = ("out of memory", "cannot allocate memory")
"""Texts in torch's errors about exhausted memory, on a GPU and on the CPU."""


class DbrunError(Exception):
    """Base of all errors that are shown to the user without a traceback.

    message: what was found and what is allowed. fix: the next command to type or the change to make.
    """

    exit_code = 1

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def render(self, width: int) -> str:
        """The message for a terminal of `width` columns."""
        # only messages that quote a line of a recipe depend on the width
        return self.message

    def to_json(self) -> dict[str, object]:
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
    """Something that a recipe names has not been downloaded yet; a run downloads it."""


class StageFailed(DbrunError):
    """A stage could not finish; its work so far is kept."""

    exit_code = 1


class HubUnreachable(StageFailed):
    """The Hub gave no answer, or none that says what is wrong; it may give one later."""


class ProcessLost(StageFailed):
    """Another process of the same run no longer answers."""


class WorkerKilled(StageFailed):
    """Another process of the same run was killed by SIGKILL, as the system does where memory runs out."""


class WorkPending(DbrunError):
    """Stages still have to run although the caller asked that none would."""

    exit_code = 3


class ExpectationMissed(DbrunError):
    """A run has delivered, but a score is not what its recipe expects."""

    exit_code = 4


class StoreCorrupt(DbrunError):
    """The store cannot be read or repaired."""

    exit_code = 5


class Interrupted(DbrunError):
    """A signal stopped the run; the work so far is safe, and the same command continues it.

    signum: the signal's number; the exit code is 128 + signum (130 Ctrl-C, 143 SIGTERM).
    """

    def __init__(self, signum: int, message: str = "interrupted; run the same command again to resume") -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum


class Cancelled(Interrupted):
    """Another thread of the program cancelled the run; the work so far is safe, and the same call continues it."""

    def __init__(self) -> None:
        super().__init__(signal.SIGINT, "cancelled; run the same recipe again to resume")


class KeyProblem(NamedTuple):
    """A problem with the value of one key, without its place in a file.

    key: dotted key, or a field's name; message: what was found and what is allowed; fix: what to do about it.
    """

    key: str
    message: str
    fix: str | None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory, of a GPU or of the machine, is exhausted."""
    if isinstance(error, MemoryError):
        return True
    # torch has no type of its own for it on the CPU and on MPS, so the text decides
    text = str(error).lower()
    return any(sign in text for sign in OUT_OF_MEMORY_TEXTS)


def is_nondeterministic(error: BaseException) -> bool:
    """Whether an error means that torch has no deterministic algorithm for an operation (`train.deterministic`)."""
    return isinstance(error, RuntimeError) and "does not have a deterministic implementation" in str(error)


def combine_errors(parts: Sequence[tuple[DbrunError, str]]) -> DbrunError:
    """One error of the first one's type that says all of them. parts: each with which runs it stops, in words."""
    last_error = parts[-1][0]
    lines: list[str] = []
    for error, which in parts:
        lines.append(f"{error.message} ({which})")
        # the last error's fix becomes that of the whole, which is printed below all lines
        if error.fix and error is not last_error:
            lines.append(f"  → {error.fix}")
    return type(parts[0][0])("\n".join(lines), fix=last_error.fix)
