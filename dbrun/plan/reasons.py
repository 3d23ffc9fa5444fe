"""Why does a stage run, or not? A reason is a value that renders itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MAX_CHANGES_SHOWN = 3
"""Changes that a reason spells out; the others are counted where they are several."""


class Reason:
    """Why a stage has its status; str() is the text for people."""


class SimpleReason(Reason, Enum):
    """Reasons that need no details."""

    CACHED = "cached"
    NO_EARLIER_RESULT = "no earlier result"
    FORCED = "asked for with --force"
    BASE_GONE = "the base is no longer in the Hub cache"

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class WaitsFor(Reason):
    """It waits for stages that run first."""

    stages: tuple[str, ...]

    def __str__(self) -> str:
        return f"after {', '.join(self.stages)}"


@dataclass(frozen=True)
class DamagedResult(Reason):
    """Its result in the store is not whole."""

    lines: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {len(self.lines) - 1} more" if len(self.lines) > 1 else ""
        return f"its result is damaged: {self.lines[0]}{more}"


@dataclass(frozen=True)
class UnpinnedBase(Reason):
    """A Hub base whose commit is not known yet."""

    revision: str

    def __str__(self) -> str:
        return f"the commit of revision {self.revision} is to be asked from the Hub"


@dataclass(frozen=True)
class NotSelected(Reason):
    """It would have to run, but the command line leaves it out."""

    why: Reason

    def __str__(self) -> str:
        return f"not cached ({self.why}), and the command leaves it out"


@dataclass(frozen=True)
class MissingRequirement(Reason):
    """Something that it needs is not on this machine. fix: what can be done about it."""

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {self.fix}"


@dataclass(frozen=True)
class UpstreamBlocked(Reason):
    """Something above it is blocked."""

    stages: tuple[str, ...]

    def __str__(self) -> str:
        return f"needs {', '.join(self.stages)}"


@dataclass(frozen=True)
class Resumes(Reason):
    """Earlier unfinished or shorter work goes on. done: how far it came."""

    why: Reason
    done: str

    def __str__(self) -> str:
        why = "unfinished" if self.why is SimpleReason.NO_EARLIER_RESULT else self.why
        return f"from {self.done} ({why})"


@dataclass(frozen=True)
class Change:
    """One value that differs from the earlier run; None where there was or is none."""

    what: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.old is None and self.new is None:
            return self.what
        return f"{self.what} {self.old or 'unset'} → {self.new or 'unset'}"


@dataclass(frozen=True)
class KeyChanged(Reason):
    """The nearest earlier result was made from something else.
    restart_reason: why its work does not go on, if it could."""

    changes: tuple[Change, ...]
    restart_reason: str | None = None

    def __str__(self) -> str:
        more = len(self.changes) - MAX_CHANGES_SHOWN
        # to count a single one takes as much room as to name it
        shown = ", ".join(str(c) for c in self.changes[:MAX_CHANGES_SHOWN if more > 1 else None])
        shown = f"{shown} and {more} more" if more > 1 else shown
        return f"{shown}; begins anew: {self.restart_reason}" if self.restart_reason else shown


@dataclass(frozen=True)
class NewRunName(Reason):
    """No run of this name came to it; the nearest result is another's. run: that one's name, where it is known."""

    run: str | None
    why: Reason

    def __str__(self) -> str:
        return f"new; nearest is {f'run {self.run}' if self.run else 'an earlier result'}: {self.why}"
