"""Reasons why a stage runs or does not: small values whose str() is the text for people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MAX_CHANGES_SHOWN = 3
"""Number of changes that a reason spells out; if two or more are left, they are counted."""


class Reason:
    """Reason for a stage's status. str() is the text for people; tests and callers compare the type instead."""


class SimpleReason(Reason, Enum):
    """Reasons that need no details."""

    CACHED = "cached"
    REMOTE = "in the remote store"
    NO_EARLIER_RESULT = "no earlier result"
    FORCED = "asked for with --force"
    BASE_GONE = "the base is no longer in the Hub cache"

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class WaitsFor(Reason):
    """The stage waits for stages that run first. stages: their names."""

    stages: tuple[str, ...]

    def __str__(self) -> str:
        return f"after {', '.join(self.stages)}"


@dataclass(frozen=True)
class DamagedResult(Reason):
    """The stage's result in the store is damaged. lines: what is wrong, a line per file."""

    lines: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {len(self.lines) - 1} more" if len(self.lines) > 1 else ""
        return f"its result is damaged: {self.lines[0]}{more}"


@dataclass(frozen=True)
class UnpinnedBase(Reason):
    """The base is on the Hub and the commit of its branch or tag is not known yet. revision: that branch or tag."""

    revision: str

    def __str__(self) -> str:
        return f"the Hub must be asked for the commit of revision {self.revision}"


@dataclass(frozen=True)
class NotSelected(Reason):
    """The stage is not cached, and --only, --from or --until leaves it out. why: the reason why it is not cached."""

    why: Reason

    def __str__(self) -> str:
        return f"not cached ({self.why}), and this command does not run it"


@dataclass(frozen=True)
class MissingRequirement(Reason):
    """This machine lacks something that the stage needs. what: the lack; fix: what the user can do."""

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {self.fix}"


@dataclass(frozen=True)
class UpstreamBlocked(Reason):
    """A stage above is blocked. stages: the names of those that are."""

    stages: tuple[str, ...]

    def __str__(self) -> str:
        return f"needs {', '.join(self.stages)}"


@dataclass(frozen=True)
class Resumes(Reason):
    """The stage continues unfinished or shorter earlier work. why: why it is not cached; done: progress as text."""

    why: Reason
    done: str

    def __str__(self) -> str:
        why = "unfinished" if self.why is SimpleReason.NO_EARLIER_RESULT else self.why
        return f"from {self.done} ({why})"


@dataclass(frozen=True)
class Change:
    """One difference from an earlier key. what: recipe key or whole text; old, new: values as text, None if unset."""

    what: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        # without values `what` is the whole text, such as "2 pictures added"
        if self.old is None and self.new is None:
            return self.what
        return f"{self.what} {self.old or 'unset'} → {self.new or 'unset'}"


@dataclass(frozen=True)
class KeyChanged(Reason):
    """The nearest earlier result was made with another key. changes: the differences, at least one.

    restart_reason: why the stage begins again, if a change of this kind could otherwise continue the earlier work.
    """

    changes: tuple[Change, ...]
    restart_reason: str | None = None

    def __str__(self) -> str:
        texts = [str(change) for change in self.changes]
        left = len(texts) - MAX_CHANGES_SHOWN
        # counting a single change takes as much room as naming it
        if left > 1:
            shown = f"{', '.join(texts[:MAX_CHANGES_SHOWN])} and {left} more"
        else:
            shown = ", ".join(texts)
        return f"{shown}; starts again: {self.restart_reason}" if self.restart_reason else shown


@dataclass(frozen=True)
class NewRunName(Reason):
    """No run of this recipe's name reached the stage; the nearest result is from another recipe.

    run: the name of that recipe, if known; why: the differences.
    """

    run: str | None
    why: Reason

    def __str__(self) -> str:
        nearest = f"run {self.run}" if self.run else "an earlier result"
        return f"new; nearest is {nearest}: {self.why}"
