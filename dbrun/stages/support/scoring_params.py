"""The params of scoring, and how a recipe gives them: prompts, seeds, pictures and encoders, every default resolved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dbrun.diffusion.prediction import PredictionType
from dbrun.naming import FILLER_WORDS
from dbrun.options.precision import Precision
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.scoring import Evaluate, Scoring, Select
from dbrun.scores.base import PicturesOf, Score, measurable_scores
from dbrun.scores.encoder import Role
from dbrun.seeds import derive_seed
from dbrun.stages.sources import EncoderFiles, Sources
from dbrun.stages.support.sample_spec import block_size, default_prompts, sampler_settings

SECTIONS: Mapping[str, type[Scoring]] = {"evaluate": Evaluate, "select": Select}
"""Sections of a recipe that say which pictures are scored."""


@dataclass(frozen=True)
class ScoringParams:
    """The params of a stage that scores adapters.

    prompts: with the subject in them; texts: the same as an encoder reads them, without the trigger, which it cannot
    know; class_prompt: of the bare class, None where no score of it is measured; seeds: one for each picture of a
    prompt; pictures: sha256 of the instance pictures; background: `#rrggbb` behind transparent ones; encoders: role ->
    its files. steps, guidance, resolution, precision, prediction, zero_terminal_snr, quantise, deterministic, block: of
    the pictures, as in the export.
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"prediction": None, "zero_terminal_snr": False, "quantise": None,
                                              "deterministic": False, "block": 1}
    WORDS: ClassVar[Mapping[str, str]] = {
        "texts": "subject.instance_prompt", "pictures": "subject.images", "background": "images.background",
        "steps": "samples.steps", "guidance": "samples.guidance", "resolution": "images.resolution",
        "precision": "train.precision", "prediction": "objective.prediction",
        "zero_terminal_snr": "objective.zero_terminal_snr", "quantise": "base.quantise",
        "deterministic": "train.deterministic", "block": "pictures drawn at once"}

    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    class_prompt: str | None
    seeds: tuple[int, ...]
    pictures: tuple[str, ...]
    background: str
    encoders: Mapping[Role, EncoderFiles]
    steps: int
    guidance: float
    resolution: int
    precision: Precision
    prediction: PredictionType | None = None
    zero_terminal_snr: bool = False
    quantise: str | None = None
    deterministic: bool = False
    block: int = 1

    @property
    def scores(self) -> dict[str, tuple[Score, Role]]:
        """Name -> score and the role of its encoder, for every score that these encoders, prompts and seeds allow."""
        allowed: dict[str, tuple[Score, Role]] = {}
        for name, (score, role) in measurable_scores(tuple(self.encoders)).items():
            has_pictures = score.PICTURES == "prompts" or self.class_prompt is not None
            if has_pictures and len(self.seeds) >= score.MIN_SEEDS:
                allowed[name] = score, role
        return allowed

    def prompts_of(self, kind: PicturesOf) -> tuple[str, ...]:
        """The prompts of pictures of a kind."""
        if kind == "prompts":
            return self.prompts
        return () if self.class_prompt is None else (self.class_prompt,)

    def prompts_for(self, names: Iterable[str]) -> tuple[str, ...]:
        """The prompts that scores, by name, need pictures of, without duplicates."""
        prompts: list[str] = []
        for name in names:
            prompts += self.prompts_of(self.scores[name][0].PICTURES)
        return tuple(dict.fromkeys(prompts))

    def count_pictures(self, names: Iterable[str]) -> int:
        """The number of pictures that scores, by name, need of one adapter."""
        return len(self.prompts_for(names)) * len(self.seeds)

    @property
    def all_prompts(self) -> tuple[str, ...]:
        """Every prompt that is drawn, without duplicates."""
        return tuple(dict.fromkeys((*self.prompts, *self.prompts_of("class_prompt"))))


def scoring_params(recipe: Recipe, sources: Sources, section: str) -> dict[str, Any]:
    """The fields of `ScoringParams` for a section, `evaluate` or `select`, by name."""
    scoring: Scoring = getattr(recipe, section) or SECTIONS[section].from_defaults()
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
        "deterministic": recipe.train.deterministic,
        "block": block_size(recipe, sources)}


def text_without_trigger(recipe: Recipe, prompt: str) -> str:
    """A prompt as an encoder can read it: a learned token as its initializer, and without other trigger words.

    Trigger words are those of the instance prompts and of `subject.trigger` that are in no class prompt. Without a
    class prompt only a trigger of one word is known to be one: in `ohwx woman` the second is the class.
    """
    for word in recipe.adapt.new_words.values():
        prompt = prompt.replace(word.token, word.initializer)
    unknown: set[str] = set()
    for subject in recipe.subjects_by_key.values():
        class_words = " ".join(subject.class_prompts).split()
        named = (subject.trigger or "").split()
        # without a class prompt every word of the instance prompt would count
        if class_words:
            unknown.update({*(subject.instance_prompt or "").split(), *named} - {*class_words, *FILLER_WORDS})
        elif len(named) == 1:
            unknown.update(named)
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
