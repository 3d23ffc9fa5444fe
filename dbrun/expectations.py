"""Expectations of scores, such as `>= 0.7` or `>= 0.8 of base`: reading them, and comparing them with what came out."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields

EXPECTATION_PATTERN = r"^(>=|<=) *-?[0-9]+(\.[0-9]+)?( +of +base)?$"


@dataclass(frozen=True)
class ScoreSummary:
    """A score in short. mean: over all pictures; spread: over seeds, None for one seed."""

    mean: float
    spread: float | None
    higher_is_better: bool

    def ties_with(self, other: ScoreSummary) -> bool:
        """Whether the two are no further apart than their spreads over seeds reach."""
        return abs(self.mean - other.mean) <= (self.spread or 0.0) + (other.spread or 0.0)


@dataclass(frozen=True)
class Expectation:
    """A limit of a score. at_least: lower limit, else upper one; number: the limit, or a factor of the base's score."""

    at_least: bool
    number: float
    of_base: bool

    def limit(self, base: float | None) -> float:
        """The limit as a score. base: the score of the base without adapter, needed for `of base`."""
        if not self.of_base:
            return self.number
        if base is None:
            raise ValueError("the score of the base is not known")
        return self.number * base

    def is_met(self, score: float, base: float | None) -> bool:
        """Whether a score keeps the limit; a score that is equal to it does."""
        limit = self.limit(base)
        return score >= limit if self.at_least else score <= limit


@dataclass(frozen=True)
class Outcome:
    """An expectation beside what came out.

    name: of the score; text: the expectation as the recipe writes it; found: the score; limit: as a score; met: whether
    it is kept.
    """

    name: str
    text: str
    found: float
    limit: float
    met: bool

    @property
    def message(self) -> str:
        """What is missing, in words: "subject is 0.612, expected >= 0.7: 0.088 too low"."""
        limit = f" (here {self.limit:.3f})" if self.text.endswith("base") else ""
        side = "low" if self.found < self.limit else "high"
        missing = abs(self.limit - self.found)
        return f"{self.name} is {self.found:.3f}, expected {self.text}{limit}: {missing:.2g} too {side}"

    def to_json(self) -> dict[str, object]:
        """The outcome as plain data."""
        return asdict(self)


def score_text(mean: float, spread: float | None) -> str:
    """A score with its spread, if that is known: `0.731 ± 0.012`."""
    if spread is None:
        return f"{mean:.3f}"
    return f"{mean:.3f} ± {spread:.3f}"


def parse_expectation(text: str) -> Expectation:
    """Read an expectation. Raises ValueError for a text that is none; a recipe holds no such text."""
    if not re.fullmatch(EXPECTATION_PATTERN, text):
        raise ValueError(f"{text!r} is no expectation such as '>= 0.7'")
    number = text[2:].strip().split(" ")[0]
    return Expectation(text.startswith(">="), float(number), text.endswith("base"))


def summaries_from_json(data: object) -> dict[str, ScoreSummary]:
    """Scores of a recorded run; empty for a run of an earlier version, and for a record that holds something else."""
    found: dict[str, ScoreSummary] = {}
    if isinstance(data, dict):
        for name, entry in data.items():
            if isinstance(entry, dict) and entry.keys() == SUMMARY_FIELDS:
                found[str(name)] = ScoreSummary(**entry)
    return found


def outcomes_from_json(data: object) -> tuple[Outcome, ...]:
    """Expectations of a recorded run; empty for a run of an earlier version."""
    found: list[Outcome] = []
    if isinstance(data, list):
        for entry in data:
            if isinstance(entry, dict) and entry.keys() == OUTCOME_FIELDS:
                found.append(Outcome(**entry))
    return tuple(found)


SUMMARY_FIELDS = {one.name for one in fields(ScoreSummary)}
OUTCOME_FIELDS = {one.name for one in fields(Outcome)}
