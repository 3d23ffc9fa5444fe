"""Which pictures are drawn while a training goes on?"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import Sources
from dbrun.stages.export import default_prompts
from dbrun.stages.support.lowres_inputs import LowresInputs, lowres_inputs


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
