"""The stage `generate-priors`: draws class images with the base, each cached by itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.errors import RecipeError, StageFailed
from dbrun.images.blank import blank_reason
from dbrun.models.sampler import Sampler
from dbrun.options.packages import OptionalPackage
from dbrun.options.precision import Precision
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.subject import prompt_cycle
from dbrun.seeds import derive_seed
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.sources import Numerics, Sources
from dbrun.stages.support import cost
from dbrun.stages.support.base_loading import load_base, quantisation_packages, sampling_numerics, sampling_precision
from dbrun.stages.support.cost import denoiser_labels, guidance_label
from dbrun.stages.support.distribute import run_distributed
from dbrun.stages.support.memory import CountedMemory, largest
from dbrun.stages.support.memory_advice import offload_advice, quantise_advice, resolution_advice
from dbrun.stages.support.memory_phases import encode_prompts_phase, sampling_phase
from dbrun.stages.support.sample_spec import block_size
from dbrun.workload import Workload

if TYPE_CHECKING:
    from PIL.Image import Image

    from dbrun.training.dry_run import DryRun

PRIORS_FILE = "priors.json"
MAX_ATTEMPTS = 5
"""How often a class image that came out blank is drawn before the stage fails."""


@dataclass(frozen=True)
class PriorParams:
    """The params of the stage `generate-priors`.

    prompt: the class prompt, or several that are taken in turn; count: class images of each class; steps, guidance:
    sampler settings; resolution: side in pixels; precision: `prior.precision`, or else that of training; seed: the
    recipe's; others: the prompts of the second and further classes, where there are several subjects; quantise: number
    format of the denoiser's linear layers, None for precision; deterministic: `train.deterministic`; block: number of
    pictures that are drawn at once.
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"others": (), "quantise": None, "deterministic": False, "block": 1}
    WORDS: ClassVar[Mapping[str, str]] = {
        "prompt": "subject.class_prompt", "count": "prior.count", "steps": "prior.steps", "seed": "seed",
        "guidance": "prior.guidance", "resolution": "images.resolution", "precision": "precision of class images",
        "others": "subjects.class_prompt", "quantise": "base.quantise", "deterministic": "train.deterministic",
        "block": "class images drawn at once"}

    prompt: str | tuple[str, ...]
    count: int
    steps: int
    guidance: float
    resolution: int
    precision: Precision
    seed: int
    others: tuple[str | tuple[str, ...], ...] = ()
    quantise: str | None = None
    deterministic: bool = False
    block: int = 1

    @property
    def cycles(self) -> tuple[tuple[str, ...], ...]:
        """The prompts of each class, which its images take in turn."""
        return tuple(tuple(prompt_cycle(own)) for own in (self.prompt, *self.others))

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of each class image, class after class."""
        prompts: list[str] = []
        for cycle in self.cycles:
            prompts += [cycle[index % len(cycle)] for index in range(self.count)]
        return tuple(prompts)


class GeneratePriors(Stage[PriorParams]):
    """Draws `prior.count` class images of each class, each an item with a seed of its own."""

    NAME: ClassVar[str] = "generate-priors"
    # 2: class images are drawn in blocks, whose lowest bits are not those of pictures drawn one by one
    VERSION: ClassVar[int] = 2
    multi_process: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("load",)
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "numpy", "pillow")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.images.blank", "dbrun.models", "dbrun.seeds", "dbrun.stages.support.base_loading",
        "dbrun.stages.support.distribute", "dbrun.training.device")

    def applies_to(self, recipe: Recipe) -> bool:
        """Whether prior preservation uses class images that the base draws."""
        return bool(recipe.generated_class_prompts)

    def params(self, recipe: Recipe, sources: Sources) -> PriorParams:
        """The class prompts and the sampler settings; what the recipe leaves out, the base's family suggests."""
        prior = recipe.prior
        if prior is None or not recipe.generated_class_prompts:
            raise RecipeError("`prior` needs `subject.class_prompt`", fix="add one, such as `a photo of a dog`")
        prompt, *others = recipe.generated_class_prompts
        defaults = sources.base.sampling
        steps = defaults.steps if prior.steps is None else prior.steps
        guidance = defaults.guidance if prior.guidance is None else prior.guidance
        return PriorParams(prompt, prior.generated_count, steps, guidance, recipe.images.resolution,
                           _precision(recipe), recipe.seed, tuple(others), recipe.base.quantise,
                           recipe.train.deterministic, block_size(recipe, sources))

    def required_packages(self, params: PriorParams) -> tuple[OptionalPackage, ...]:
        """The package of the quantisation, if there is one."""
        return quantisation_packages(params.quantise)

    def key_numerics(self, params: PriorParams, numerics: Numerics) -> Mapping[str, str]:
        """The precision in which its pictures are drawn."""
        return sampling_numerics(params.precision, numerics)

    def item_keys(self, params: PriorParams, inputs: Mapping[str, str],
                  numerics: Numerics) -> Sequence[Mapping[str, object]]:
        """One key for each class image, class after class."""
        precision = sampling_precision(params.precision, numerics)
        keys: list[Mapping[str, object]] = []
        for place, prompt in enumerate(params.prompts):
            # the index counts within the class: its images stay the same when the recipe gets a further class
            key: dict[str, object] = {
                "base": inputs["load"], "prompt": prompt, "steps": params.steps, "guidance": params.guidance,
                "resolution": params.resolution, "precision": precision, "seed": params.seed,
                "index": place % params.count}
            if params.quantise is not None:
                key["quantise"] = params.quantise
            if params.deterministic:
                key["deterministic"] = True
            if params.block > 1:
                key["block"] = params.block
            keys.append(key)
        return keys

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """The number of pictures, and for each its sampler steps times pixels; one block is in memory at a time."""
        params = self.params(recipe, sources)
        count, pixels = len(params.prompts), params.resolution**2
        return Workload(count, params.steps * pixels, (pixels * params.block,), {".png": count * pixels},
                        (params.precision, f"blocks of {params.block}", guidance_label(params.guidance),
                         *denoiser_labels(recipe.base)))

    def count_memory(self, recipe: Recipe, sources: Sources, dry_run: DryRun) -> CountedMemory:
        """The text encoders first; once they are released, denoiser and autoencoder."""
        params = self.params(recipe, sources)
        precision = sampling_precision(params.precision, Numerics(dry_run.device, 0))
        base = dry_run.open(precision, quantise=params.quantise)
        return largest((encode_prompts_phase(base), sampling_phase(base, params.resolution, params.guidance)))

    def memory_advice(self, recipe: Recipe, device: str) -> tuple[str, ...]:
        """Fewer pixels or bits, or class images that need not be drawn here."""
        can_be_smaller = self.applies_to(recipe) and _precision(recipe) == "fp32"
        fewer_bits = ("set `prior.precision: bf16`",) if can_be_smaller else ()
        return (*fewer_bits, *quantise_advice(recipe, device), *resolution_advice(recipe),
                *offload_advice(recipe, device), *_other_targets(recipe))

    def max_disk_bytes(self, ctx: StageContext[PriorParams]) -> int:
        """Each picture twice: as an item and in the result."""
        return 2 * cost.picture_bytes(len(ctx.params.prompts), ctx.params.resolution) + cost.OVERHEAD_BYTES

    def run(self, ctx: StageContext[PriorParams]) -> None:
        """Write 00000.png, 00001.png … and priors.json."""
        params = ctx.params
        keys = self.item_keys(params, {"load": ctx.inputs["load"].digest}, ctx.numerics)

        draw = _BlockDrawer(ctx).draw
        count = params.count

        def item(place: int) -> Path:
            class_number, index = divmod(place, count)
            return ctx.items.get(keys[place], partial(draw, class_number, index))

        # a block is drawn by one process
        groups: list[list[Callable[[], Path]]] = []
        for class_number in range(len(params.cycles)):
            for first in range(0, count, params.block):
                indices = range(first, min(first + params.block, count))
                groups.append([partial(item, class_number * count + index) for index in indices])
        run_distributed(ctx, groups, "pictures")
        # the other processes have left their pictures in the item cache
        if ctx.process_group.rank:
            return
        total = len(params.prompts)
        for place in range(total):
            shutil.copyfile(item(place) / "picture.png", ctx.out / f"{place:05d}.png")
        # one class keeps the form that it had before there were several
        prompt = (params.prompt, *params.others) if params.others else params.prompt
        record = {"prompt": prompt, "count": total}
        (ctx.out / PRIORS_FILE).write_text(json.dumps(record, sort_keys=True) + "\n", encoding="utf-8")
        ctx.progress(total, total, "pictures")


def _precision(recipe: Recipe) -> Precision:
    """The precision in which class images are drawn."""
    own = recipe.prior.precision if recipe.prior is not None else None
    return own or recipe.train.resolved_precision


def _other_targets(recipe: Recipe) -> tuple[str, ...]:
    """Advice on class images that need not be drawn, as far as the rules between keys allow it."""
    prior, subjects = recipe.prior, recipe.subjects_by_key
    if prior is None:
        return ()
    if prior.images is not None:
        return ("add class images of your own to those in `prior.images`",)
    own = [key for key, subject in subjects.items() if subject.class_images is not None]
    if own:
        return (f"add class images of your own to those in `{own[0]}.class_images`",)
    # settings of pictures that are not drawn are refused
    ignored = [f"`prior.{key}`" for key in prior.GENERATION_KEYS if getattr(prior, key) is not None]
    without = f" and leave out {' and '.join(ignored)}" if ignored else ""
    advice: list[str] = []
    # prompts with places need class images drawn for each of them
    if len(subjects) == 1 and all(len(subject.class_prompts) == 1 for subject in subjects.values()):
        advice.append(f"name class images of your own in `prior.images`{without}")
    if not recipe.objective.prediction and not recipe.objective.zero_terminal_snr:
        advice.append(f"set `prior.target: base`{without}")
    return tuple(advice)


class _BlockDrawer:
    """Draws class images block by block; the base is loaded at the first picture that is not cached."""

    def __init__(self, ctx: StageContext[PriorParams]) -> None:
        self.ctx = ctx
        # the last block, with each attempt at its pictures that came out blank
        self._block = lru_cache(maxsize=MAX_ATTEMPTS)(self._draw_block)

    @cached_property
    def sampler(self) -> Sampler:
        """The base with all prompts encoded."""
        ctx, params = self.ctx, self.ctx.params
        precision = sampling_precision(params.precision, ctx.numerics)
        model = load_base(ctx, precision, quantise=params.quantise, deterministic=params.deterministic)
        # all of each cycle: the last block may have pictures beyond the count
        return Sampler(model, chain.from_iterable(params.cycles))

    def draw(self, class_number: int, index: int, folder: Path) -> None:
        """Draw the class image with this index into folder; draw a blank one again from the next seed."""
        block, row = divmod(index, self.ctx.params.block)
        for attempt in range(MAX_ATTEMPTS):
            picture = self._block(class_number, block, attempt)[row]
            # an overflow in fp16 gives a black picture, which would teach that the whole class is black
            why = blank_reason(picture)
            if not why:
                picture.save(folder / "picture.png", compress_level=6)
                return
        cycle = self.ctx.params.cycles[class_number]
        prompt = cycle[index % len(cycle)]
        raise StageFailed(f"class image {index} came out {why} {MAX_ATTEMPTS} times for `{prompt}`",
                          fix="set `prior.precision: fp32` or `bf16`, or another `prior.steps` or `prior.guidance`")

    def _draw_block(self, class_number: int, block: int, attempt: int) -> list[Image]:
        """The pictures of a block, always as many: a picture's bytes must not depend on `prior.count`."""
        params = self.ctx.params
        cycle = params.cycles[class_number]
        indices = range(block * params.block, (block + 1) * params.block)
        return self.sampler.draw_block(
            [cycle[index % len(cycle)] for index in indices],
            seeds=[derive_seed(params.seed, "class image", index, attempt) for index in indices],
            steps=params.steps, guidance=params.guidance, resolution=params.resolution,
            on_step=self.ctx.check_interrupt)
