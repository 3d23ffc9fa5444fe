"""The sample pictures that are drawn during a training, and their default prompts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from dbrun.models.base import families
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.sources import Sources
from dbrun.stages.support.lowres_inputs import DEFAULT_COLUMNS, LowresInputs, lowres_inputs

DEFAULT_PLACES = ("in the snow", "on the moon", "at night", "in the city")
"""Places that are appended to the instance prompt if the recipe names no prompts."""
MAX_COLUMNS = 16
"""The most columns of before_after.png without prompts in the recipe."""


@dataclass(frozen=True)
class SampleSpec:
    """The settings of the sample pictures: one for each prompt, as in before_after.png.

    every: training steps between two rows; steps, guidance: sampler settings; seed: of the first column, the next has
    seed + 1; resolution: side in pixels; starts: start images, None for a base that draws from text alone; block:
    number of pictures drawn at once.
    """

    every: int
    prompts: tuple[str, ...]
    steps: int
    guidance: float
    seed: int
    resolution: int
    starts: LowresInputs | None
    block: int

    @property
    def fingerprint(self) -> str:
        """A digest of these settings without `every`: pictures of a step are the same however often they are drawn."""
        text = json.dumps({**asdict(self), "every": None}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def sample_spec(recipe: Recipe, sources: Sources) -> SampleSpec | None:
    """The sample pictures of a recipe; None where `samples.every` is not set."""
    samples, starts = recipe.samples, lowres_inputs(recipe, sources)
    if samples.every is None:
        return None
    steps, guidance = sampler_settings(recipe, sources)
    return SampleSpec(
        every=samples.every,
        prompts=samples.prompts or default_prompts(recipe, sources, starts),
        steps=steps,
        guidance=guidance,
        seed=samples.seed,
        resolution=recipe.images.resolution,
        starts=starts,
        block=block_size(recipe, sources))


def sampler_settings(recipe: Recipe, sources: Sources) -> tuple[int, float]:
    """Steps and guidance of every drawn sample; what the recipe leaves out, the base's family sets."""
    samples, defaults = recipe.samples, sources.base.sampling
    steps = defaults.steps if samples.steps is None else samples.steps
    guidance = defaults.guidance if samples.guidance is None else samples.guidance
    return steps, guidance


def block_size(recipe: Recipe, sources: Sources) -> int:
    """Number of pictures that are drawn at once: by the base's family and their resolution alone."""
    return families()[sources.base.family].block_size(recipe.images.resolution)


def default_prompts(recipe: Recipe, sources: Sources, begin: LowresInputs | None = None) -> tuple[str, ...]:
    """The prompts of before_after.png if the recipe names none, at most MAX_COLUMNS.

    For each subject the instance prompt, the same with places appended, and the class prompt. begin: start images of a
    base that needs them; their own prompts are then used.
    """
    # an enlarged photo shows where it was taken: another place in the prompt would contradict it
    if begin is not None:
        return tuple(picture.prompt for picture in begin.pictures[:DEFAULT_COLUMNS])
    is_single = len(recipe.subjects_by_key) == 1
    prompts: list[str] = []
    for number, subject in enumerate(recipe.subjects_by_key.values()):
        pictures = sources.pictures_by_subject[number] if sources.pictures_by_subject else sources.pictures
        # of several subjects one place each, so that all have room
        places = DEFAULT_PLACES if is_single else (DEFAULT_PLACES[number % len(DEFAULT_PLACES)],)
        own = subject.instance_prompt
        if own:
            prompts.append(own)
            prompts += [f"{own} {place}" for place in places]
        else:
            # each picture has a prompt of its own: as many distinct ones
            distinct = list(dict.fromkeys(picture.prompt for picture in pictures))
            prompts += distinct[:1 + len(places)]
        # of a single subject the class prompt twice: each column has a seed of its own, so that two equal pictures
        # would show that the class has collapsed
        class_columns = 2 if is_single else 1
        prompts += (subject.class_prompts * 2)[:class_columns]
    return tuple(prompts[:MAX_COLUMNS])
