"""Which pictures are drawn while a training goes on?"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import Sources
from dbrun.stages.export import default_prompts
from dbrun.stages.support.lowres_inputs import Starts, starts


@dataclass(frozen=True)
class Columns:
    """A picture for each prompt, as in before_after.png. every: steps between two rows of them.

    steps, guidance: the sampler's; seed: of the first column; starts: what they begin with, None where words do.
    """

    every: int
    prompts: tuple[str, ...]
    steps: int
    guidance: float
    seed: int
    resolution: int
    starts: Starts | None

    @property
    def name(self) -> str:
        """What pictures drawn in this way have in common, however often they are drawn."""
        text = json.dumps({**asdict(self), "every": None}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def columns(recipe: Recipe, sources: Sources) -> Columns | None:
    """What `samples` asks to be drawn while training; None if nothing."""
    asked, suits, begin = recipe.samples, sources.base.sampling, starts(recipe, sources)
    if asked.every is None:
        return None
    return Columns(asked.every, asked.prompts or default_prompts(recipe, sources, begin),
                   suits.steps if asked.steps is None else asked.steps,
                   suits.guidance if asked.guidance is None else asked.guidance, asked.seed,
                   recipe.images.resolution, begin)
