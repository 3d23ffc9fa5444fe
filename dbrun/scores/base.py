"""Scores of generated pictures: what each one compares, in which encoder, and its mean with two spreads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

from dbrun.config_types import subclasses
from dbrun.scores.encoder import Role

if TYPE_CHECKING:
    from torch import Tensor

PicturesOf = Literal["prompts", "class_prompt"]
"""Pictures that a score measures, all drawn with the adapter: of the recipe's prompts, or of the bare class prompt."""
References = Literal["instances", "texts", "none"]
"""Embeddings that pictures are compared with: the subject's own pictures, the prompts' texts, or each other's only."""


@dataclass(frozen=True)
class EmbeddedPictures:
    """Embeddings of generated pictures in one encoder.

    vectors: float32 [N, D], each row of length 1; prompts: index of each picture's prompt; seeds: seed of each.
    Raises ValueError where these have unequal lengths, or where there is no picture.
    """

    vectors: Tensor
    prompts: tuple[int, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.vectors) == len(self.prompts) == len(self.seeds):
            raise ValueError(f"{len(self.vectors)} embeddings, {len(self.prompts)} prompts, {len(self.seeds)} seeds")
        if not self.prompts:
            raise ValueError("no picture to score")


@dataclass(frozen=True)
class ScoreValue:
    """Result of a score. mean: over all pictures; count: number of pictures.

    spread_prompts: standard deviation of the means of each prompt; spread_seeds: of the means of each seed; None where
    there is only one prompt or seed, of which no spread is known.
    """

    mean: float
    spread_prompts: float | None
    spread_seeds: float | None
    count: int


class Score:
    """A score of generated pictures. A subclass in a file of its own is one; it is found without being registered.

    NAME: key of a recipe's `expect`. LABEL: the field's name for it. SOURCE: paper and section. HIGHER_IS_BETTER: its
    direction. ENCODERS: roles of the encoders that it can be measured in, the preferred one first.
    PICTURES, REFERENCES: what it compares. MIN_SEEDS: seeds that it needs for each prompt.
    """

    NAME: ClassVar[str]
    LABEL: ClassVar[str]
    SOURCE: ClassVar[str]
    HIGHER_IS_BETTER: ClassVar[bool]
    ENCODERS: ClassVar[tuple[Role, ...]]
    PICTURES: ClassVar[PicturesOf]
    REFERENCES: ClassVar[References]
    MIN_SEEDS: ClassVar[int] = 1

    def encoder_role(self, named: Collection[Role]) -> Role | None:
        """Role of the encoder to measure in, of those that a recipe names; None where it names none that fits."""
        for role in self.ENCODERS:
            if role in named:
                return role
        return None

    @property
    def missing_encoder_reason(self) -> str:
        """What to name in a recipe where `encoder_role` is None."""
        return f"{self.NAME} needs {' or '.join(f'`{role}`' for role in self.ENCODERS)}"

    def per_picture(self, pictures: EmbeddedPictures, references: Tensor) -> Tensor:
        """Value of each picture, float64 [N].

        pictures: of the kind PICTURES; references: of the kind REFERENCES, in the same encoder: instance pictures
        [M, D], or texts [P, D], one for each prompt index; ignored for "none".
        """
        raise NotImplementedError

    def measure(self, pictures: EmbeddedPictures, references: Tensor) -> ScoreValue:
        """Mean of `per_picture` over all pictures, with its spreads; arguments as there."""
        from statistics import fmean

        values: list[float] = self.per_picture(pictures, references).tolist()
        return ScoreValue(fmean(values), _spread(values, pictures.prompts), _spread(values, pictures.seeds),
                          len(values))


def _spread(values: Sequence[float], groups: Sequence[int]) -> float | None:
    """Sample standard deviation of the means of the groups; None for a single group."""
    # imported here: every command reads the names of the scores, and few measure any
    from statistics import fmean, stdev

    means = []
    for group in sorted(set(groups)):
        means.append(fmean(value for value, mine in zip(values, groups, strict=True) if mine == group))
    if len(means) < 2:
        return None
    return stdev(means)


def mean_cosines(pictures: Tensor, references: Tensor) -> Tensor:
    """Mean cosine of each picture to all references, float64 [N]; both of rows of length 1, [N, D] and [M, D]."""
    if not len(references):
        raise ValueError("no picture to compare with")
    # float64: the sum does not depend on the order of the pictures to any digit that is shown
    cosines: Tensor = pictures.double() @ references.double().T
    return cosines.mean(dim=1)


@cache
def scores() -> Mapping[str, Score]:
    """Name → score of every file of this package, in the order of the file names."""
    return {kind.NAME: kind() for kind in subclasses("dbrun.scores", Score)}


def measurable_scores(named: Collection[Role]) -> Mapping[str, tuple[Score, Role]]:
    """Name → (score, role of its encoder) of every score that the named encoders allow."""
    found: dict[str, tuple[Score, Role]] = {}
    for name, score in scores().items():
        role = score.encoder_role(named)
        if role is not None:
            found[name] = (score, role)
    return found
