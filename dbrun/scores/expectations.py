"""Expectations of scores, such as `>= 0.7` or `>= 0.8 of base`: reading them, and comparing them with what came out."""

from __future__ import annotations

import re
from dataclasses import dataclass

EXPECTATION_PATTERN = r"^(>=|<=) *[0-9]+(\.[0-9]+)?( +of +base)?$"


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
        """What is missing, in words: "subject is 0.612, 0.088 below the 0.7 that is expected (>= 0.7)"."""
        side = "below" if self.found < self.limit else "above"
        by = abs(self.limit - self.found)
        return f"{self.name} is {self.found:.3f}, {by:.3f} {side} the {self.limit:.3f} that is expected ({self.text})"


def parse_expectation(text: str) -> Expectation:
    """Read an expectation. Raises ValueError for a text that is none; a recipe holds no such text."""
    if not re.fullmatch(EXPECTATION_PATTERN, text):
        raise ValueError(f"{text!r} is no expectation such as '>= 0.7'")
    number = text[2:].strip().split(" ")[0]
    return Expectation(text.startswith(">="), float(number), text.endswith("base"))
