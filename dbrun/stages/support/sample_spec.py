"""Which pictures are drawn while a training goes on?"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from dbrun.recipe.schema.model import Recipe
from dbrun.stages.sources import Sources
from dbrun.stages.support.lowres_inputs import DEFAULT_COLUMNS, LowresInputs, lowres_inputs

DEFAULT_PLACES = ("in the snow", "on the moon", "at night", "in the city")
"""Where the subject is shown if the recipe names no prompts."""
MAX_COLUMNS = 16
"""Columns of before_after.png."""


@dataclass(frozen=True)
class SampleSpec:
    """A picture for each prompt, as in before_after.png. every: steps between two rows of them.

    steps, guidance: the sampler's; seed: of the first column; starts: what they begin with, None where words do.
    """

    every: int
    prompts: tuple[str, ...]
    steps: int
    guidance: float
    seed: int
    resolution: int
    starts: LowresInputs | None

    @property
    def fingerprint(self) -> str:
        """What pictures drawn in this way have in common, however often they are drawn."""
        text = json.dumps({**asdict(self), "every": None}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def sample_spec(recipe: Recipe, sources: Sources) -> SampleSpec | None:
    """What `samples` asks to be drawn while training; None if nothing."""
    asked, suits, begin = recipe.samples, sources.base.sampling, lowres_inputs(recipe, sources)
    if asked.every is None:
        return None
    return SampleSpec(asked.every, asked.prompts or default_prompts(recipe, sources, begin),
                      suits.steps if asked.steps is None else asked.steps,
                      suits.guidance if asked.guidance is None else asked.guidance, asked.seed,
                      recipe.images.resolution, begin)


def default_prompts(recipe: Recipe, sources: Sources, begin: LowresInputs | None = None) -> tuple[str, ...]:
    """For each subject the instance prompt, the same in places that a training picture may lack, and the class prompt.

    Of a lone subject the class prompt twice, since each column has its own seed: the class should still be various. Of
    several subjects a place each, so that all have room. Without an instance prompt, some of the pictures' own. Where
    pictures are enlarged, a few of them, each under its own prompt: a small photo says itself where it was taken.
    """
    if begin is not None:
        return tuple(picture.prompt for picture in begin.pictures[:DEFAULT_COLUMNS])
    lone = len(recipe.subjects_by_key) == 1
    shown: list[str] = []
    for number, subject in enumerate(recipe.subjects_by_key.values()):
        pictures = sources.pictures_by_subject[number] if sources.pictures_by_subject else sources.pictures
        own = subject.instance_prompt
        places = DEFAULT_PLACES if lone else (DEFAULT_PLACES[number % len(DEFAULT_PLACES)],)
        shown += (own, *(f"{own} {place}" for place in places)) if own else list(
            dict.fromkeys(picture.prompt for picture in pictures))[:1 + len(places)]
        shown += (subject.class_prompts * 2)[:2 if lone else 1]
    return tuple(shown[:MAX_COLUMNS])
