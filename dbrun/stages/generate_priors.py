"""What does the base draw for the class prompt? The stage `generate-priors`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

from dbrun.errors import RecipeError, StageFailed
from dbrun.families.base import Family, Loaded
from dbrun.images.flat import refusal
from dbrun.recipe.model import Recipe, in_turn
from dbrun.seeds import derive
from dbrun.stages.arithmetic import Precision, base_in_memory, drawn_in
from dbrun.stages.base import Job, Sources, Stage
from dbrun.stages.ranks import spread

RECORD = "priors.json"
ATTEMPTS = 5


@dataclass(frozen=True)
class PriorParams:
    """What makes the class images. prompt: one, or those taken in turn; steps, guidance: the sampler's."""

    WORDS: ClassVar[Mapping[str, str]] = {
        "prompt": "subject.class_prompt", "count": "prior.count", "steps": "prior.steps", "seed": "seed",
        "guidance": "prior.guidance", "resolution": "images.resolution", "precision": "train.precision"}

    prompt: str | tuple[str, ...]
    count: int
    steps: int
    guidance: float
    resolution: int
    precision: Precision
    seed: int

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of each class image."""
        given = in_turn(self.prompt)
        return tuple(given[index % len(given)] for index in range(self.count))


class GeneratePriors(Stage[PriorParams]):
    """Draw `prior.count` class images, each an item of its own with a seed of its own."""

    NAME: ClassVar[str] = "generate-priors"
    shared: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("load",)
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "numpy", "pillow")
    modules: ClassVar[tuple[str, ...]] = ("dbrun.stages.arithmetic", "dbrun.training.device", "dbrun.families",
                                          "dbrun.seeds", "dbrun.images.flat", "dbrun.stages.ranks")

    def wanted(self, recipe: Recipe) -> bool:
        """Only with prior preservation by class images that the base makes."""
        return recipe.prior is not None and recipe.prior.made > 0

    def params(self, recipe: Recipe, sources: Sources) -> PriorParams:
        """The class prompt and the sampler's settings; what the recipe leaves out, the base suggests."""
        prior, prompt = recipe.prior, recipe.subject.class_prompt
        if prior is None or prompt is None:
            raise RecipeError("`prior` needs `subject.class_prompt`", fix="add one, such as `a photo of a dog`")
        suits = sources.base.sampling
        return PriorParams(prompt, prior.made, suits.steps if prior.steps is None else prior.steps,
                           suits.guidance if prior.guidance is None else prior.guidance,
                           recipe.images.resolution, recipe.train.precision, recipe.seed)

    def run(self, job: Job[PriorParams]) -> None:
        """Write 00000.png … and priors.json."""
        params = job.params
        precision = drawn_in(params.precision, job.numerics)

        @cache
        def base() -> tuple[Family, Loaded]:
            return base_in_memory(job, precision)

        def item(index: int) -> Path:
            key = {"base": job.inputs["load"].digest, "prompt": params.prompts[index], "steps": params.steps,
                   "guidance": params.guidance, "resolution": params.resolution, "precision": precision,
                   "seed": params.seed, "index": index}
            return job.items.get(key, partial(_drawn, base, params, index))

        spread(job, [partial(item, index) for index in range(params.count)], "pictures")
        if job.ranks.rank:
            return
        for index in range(params.count):
            shutil.copyfile(item(index) / "picture.png", job.out / f"{index:05d}.png")
        record = {"prompt": params.prompt, "count": params.count}
        (job.out / RECORD).write_text(json.dumps(record, sort_keys=True) + "\n", encoding="utf-8")
        job.progress(params.count, params.count, "pictures")


def _drawn(base: Callable[[], tuple[Family, Loaded]], params: PriorParams, index: int, folder: Path) -> None:
    """Draw the picture with this index; a flat one is refused and drawn again from the next seed."""
    (family, loaded), prompt = base(), params.prompts[index]
    for attempt in range(ATTEMPTS):
        picture = family.generate(loaded, prompt, seed=derive(params.seed, "class image", index, attempt),
                                  steps=params.steps, guidance=params.guidance, resolution=params.resolution)
        if not (why := refusal(picture)):
            picture.save(folder / "picture.png", compress_level=6)
            return
    raise StageFailed(f"class image {index} came out {why} {ATTEMPTS} times for `{prompt}`",
                      fix="set `train.precision: fp32` or `bf16`, or another `prior.steps` or `prior.guidance`")
