"""What does the base draw for the class prompt? The stage `generate-priors`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

from dbrun.errors import RecipeError, StageFailed
from dbrun.images.blank import blank_reason
from dbrun.models.base import Model
from dbrun.options.precision import Precision
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.subject import prompt_cycle
from dbrun.seeds import derive_seed
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.sources import Numerics, Sources
from dbrun.stages.support import cost
from dbrun.stages.support.base_loading import load_base, sampling_precision
from dbrun.stages.support.cost import guidance_label
from dbrun.stages.support.distribute import run_distributed
from dbrun.workload import Workload

PRIORS_FILE = "priors.json"
MAX_ATTEMPTS = 5


@dataclass(frozen=True)
class PriorParams:
    """What makes the class images. prompt: one, or those taken in turn; steps, guidance: the sampler's.

    count: how many of each class; others: the prompts of further classes, where subjects have several.
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"others": ()}
    WORDS: ClassVar[Mapping[str, str]] = {
        "prompt": "subject.class_prompt", "count": "prior.count", "steps": "prior.steps", "seed": "seed",
        "guidance": "prior.guidance", "resolution": "images.resolution", "precision": "train.precision",
        "others": "subjects.class_prompt"}

    prompt: str | tuple[str, ...]
    count: int
    steps: int
    guidance: float
    resolution: int
    precision: Precision
    seed: int
    others: tuple[str | tuple[str, ...], ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of each class image, class after class."""
        classes = map(prompt_cycle, (self.prompt, *self.others))
        return tuple(given[index % len(given)] for given in classes for index in range(self.count))


class GeneratePriors(Stage[PriorParams]):
    """Draw `prior.count` class images, each an item of its own with a seed of its own."""

    NAME: ClassVar[str] = "generate-priors"
    multi_process: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("load",)
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "numpy", "pillow")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.images.blank", "dbrun.models", "dbrun.seeds", "dbrun.stages.support.base_loading",
        "dbrun.stages.support.distribute", "dbrun.training.device")

    def applies_to(self, recipe: Recipe) -> bool:
        """Only with prior preservation by class images that the base makes."""
        return bool(recipe.generated_class_prompts)

    def params(self, recipe: Recipe, sources: Sources) -> PriorParams:
        """The class prompt and the sampler's settings; what the recipe leaves out, the base suggests."""
        prior = recipe.prior
        if prior is None or not recipe.generated_class_prompts:
            raise RecipeError("`prior` needs `subject.class_prompt`", fix="add one, such as `a photo of a dog`")
        prompt, *others = recipe.generated_class_prompts
        suits = sources.base.sampling
        return PriorParams(prompt, prior.generated_count, suits.steps if prior.steps is None else prior.steps,
                           suits.guidance if prior.guidance is None else prior.guidance,
                           recipe.images.resolution, recipe.train.precision, recipe.seed, tuple(others))

    def item_keys(self, params: PriorParams, inputs: Mapping[str, str],
                  numerics: Numerics) -> Sequence[Mapping[str, object]]:
        """One for each picture; its index is that in its class, which has the same images beside any others."""
        return [{"base": inputs["load"], "prompt": prompt, "steps": params.steps, "guidance": params.guidance,
                 "resolution": params.resolution, "precision": sampling_precision(params.precision, numerics),
                 "seed": params.seed, "index": place % params.count} for place, prompt in enumerate(params.prompts)]

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """Pictures of so many pixels, each in so many sampler steps, one in memory at a time."""
        params = self.params(recipe, sources)
        count, pixels = len(params.prompts), params.resolution**2
        return Workload(count, params.steps * pixels, (pixels,), {".png": count * pixels},
                        (params.precision, guidance_label(params.guidance)))

    def max_disk_bytes(self, ctx: StageContext[PriorParams]) -> int:
        """Each picture, as an item and in the result."""
        return 2 * cost.picture_bytes(len(ctx.params.prompts), ctx.params.resolution) + cost.OVERHEAD_BYTES

    def run(self, ctx: StageContext[PriorParams]) -> None:
        """Write 00000.png … and priors.json."""
        params = ctx.params
        precision = sampling_precision(params.precision, ctx.numerics)
        keys = self.item_keys(params, {"load": ctx.inputs["load"].digest}, ctx.numerics)

        @cache
        def base() -> Model:
            return load_base(ctx, precision)

        prompts = params.prompts

        def item(place: int) -> Path:
            return ctx.items.get(keys[place], partial(_draw_picture, ctx, base, prompts[place], place % params.count))

        run_distributed(ctx, [partial(item, place) for place in range(len(prompts))], "pictures")
        if ctx.process_group.rank:
            return
        for place in range(len(prompts)):
            shutil.copyfile(item(place) / "picture.png", ctx.out / f"{place:05d}.png")
        record = {"prompt": params.prompt if not params.others else (params.prompt, *params.others),
                  "count": len(prompts)}
        (ctx.out / PRIORS_FILE).write_text(json.dumps(record, sort_keys=True) + "\n", encoding="utf-8")
        ctx.progress(len(prompts), len(prompts), "pictures")


def _draw_picture(ctx: StageContext[PriorParams], base: Callable[[], Model], prompt: str, index: int,
                  folder: Path) -> None:
    """Draw the picture with this index; a flat one is refused and drawn again from the next seed."""
    (model), params = base(), ctx.params
    for attempt in range(MAX_ATTEMPTS):
        picture = model.generate(prompt, seed=derive_seed(params.seed, "class image", index, attempt),
                                  steps=params.steps, guidance=params.guidance, resolution=params.resolution,
                                  on_step=ctx.check_interrupt)
        if not (why := blank_reason(picture)):
            picture.save(folder / "picture.png", compress_level=6)
            return
    raise StageFailed(f"class image {index} came out {why} {MAX_ATTEMPTS} times for `{prompt}`",
                      fix="set `train.precision: fp32` or `bf16`, or another `prior.steps` or `prior.guidance`")
