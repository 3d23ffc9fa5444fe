"""The params of scoring from a recipe: its prompts, seeds, pictures and encoders, with every default resolved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbrun.naming import FILLER_WORDS
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.scoring import Evaluate, Scoring, Select
from dbrun.seeds import derive_seed
from dbrun.stages.sources import Sources
from dbrun.stages.support.sample_spec import default_prompts, sampler_settings

DEFAULTS: Mapping[str, Scoring] = {"evaluate": Evaluate.from_defaults(), "select": Select.from_defaults()}
"""Section of a recipe -> what it says where the recipe does not have it."""


def scoring_params(recipe: Recipe, sources: Sources, section: str) -> dict[str, Any]:
    """The fields of `ScoringParams` for a section, `evaluate` or `select`, by name."""
    scoring: Scoring = getattr(recipe, section) or DEFAULTS[section]
    steps, guidance = sampler_settings(recipe, sources)
    class_prompt = scoring.class_prompt or _first_class_prompt(recipe)
    prompts = scoring.prompts or _subject_prompts(recipe, sources)
    # the address holds the section: the choice between candidates must not be made on the pictures that judge it
    seeds = tuple(derive_seed(recipe.samples.seed, section, number) for number in range(scoring.seeds))
    return {
        "prompts": prompts,
        "texts": tuple(text_without_trigger(recipe, prompt) for prompt in prompts),
        "class_prompt": class_prompt,
        "seeds": seeds,
        "pictures": tuple(dict.fromkeys(picture.digest for picture in sources.pictures)),
        "background": recipe.images.background,
        "encoders": sources.encoders.get(section, {}),
        "steps": steps,
        "guidance": guidance,
        "resolution": recipe.images.resolution,
        "precision": recipe.train.resolved_precision,
        "prediction": recipe.objective.prediction,
        "zero_terminal_snr": recipe.objective.zero_terminal_snr,
        "quantise": recipe.base.quantise,
        "deterministic": recipe.train.deterministic}


def text_without_trigger(recipe: Recipe, prompt: str) -> str:
    """A prompt as an encoder can read it: a learned token as its initializer, and without other trigger words.

    Trigger words are those of the instance prompts that are in no class prompt, or `subject.trigger`.
    """
    for word in recipe.adapt.new_words.values():
        prompt = prompt.replace(word.token, word.initializer)
    unknown: set[str] = set()
    for subject in recipe.subjects_by_key.values():
        class_words = " ".join(subject.class_prompts).split()
        # without a class prompt every word of the instance prompt would count
        if class_words and subject.instance_prompt:
            unknown.update(set(subject.instance_prompt.split()) - {*class_words, *FILLER_WORDS})
    kept = [word for word in prompt.split() if word not in unknown]
    return " ".join(kept) or prompt


def _first_class_prompt(recipe: Recipe) -> str | None:
    """The first class prompt of the subject; further ones name places."""
    for subject in recipe.subjects_by_key.values():
        if subject.class_prompts:
            return subject.class_prompts[0]
    return None


def _subject_prompts(recipe: Recipe, sources: Sources) -> tuple[str, ...]:
    """The default prompts of samples without those of the bare class."""
    class_prompts: set[str] = set()
    for subject in recipe.subjects_by_key.values():
        class_prompts.update(subject.class_prompts)
    prompts = tuple(dict.fromkeys(default_prompts(recipe, sources)))
    return tuple(prompt for prompt in prompts if prompt not in class_prompts) or prompts
