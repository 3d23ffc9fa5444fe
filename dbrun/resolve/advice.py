"""Advice about a valid recipe whose result will probably disappoint: warnings, each with what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dbrun.errors import DbrunError, RecipeError
from dbrun.events import Note
from dbrun.images import photographs
from dbrun.models.base import families
from dbrun.naming import FILLER_WORDS
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.subject import Subject
from dbrun.resolve.base import EMBEDDED
from dbrun.resolve.pictures import EMBEDDED_PREFIX
from dbrun.stages.sources import BaseSource, Picture, Sources
from dbrun.store.store import Store

MAX_MEASURED = 16
"""Pictures of a subject that are measured at most, spread over all of them; it bounds the time of a first plan."""
LARGE_RESOLUTION = 256
"""Native resolution in pixels from which a base is far larger than the embedded one, whose own is 64."""
LATENT_RESOLUTION = 512
"""Least native resolution in pixels of the usual bases that work on latents."""
HIGH_RATE_SHARE = 1 / 20
"""Share of an optimizer's largest usual learning rate that is high for a large base, though usual for the embedded one:
AdamW's is 0.001."""
USUAL_LARGE_RATE = 1e-4
"""Learning rate in common use for adapters of large bases."""
FEW_PICTURES = "three to six, in several places and poses, are usual"


def recipe_advice(recipe: Recipe, sources: Sources, files: Mapping[str, Path], store: Store) -> Iterator[Note]:
    """Yield warnings about a recipe that works, but probably not as its author hopes. files: sha256 → path."""
    by_subject = sources.pictures_by_subject or (sources.pictures,)
    subjects = dict(zip(recipe.subjects_by_key.items(), by_subject, strict=True))
    for (key, subject), pictures in subjects.items():
        if recipe.base.path == EMBEDDED and not subject.images.startswith(EMBEDDED_PREFIX):
            yield from _photograph_advice(key, pictures, files, store)
        yield from _lone_picture_advice(key, pictures)
        yield from _class_word_advice(key, subject, recipe)
    yield from _flow_noise_advice(recipe)
    if recipe.base.path != EMBEDDED:
        yield from _distilled_base_advice(recipe, sources.base)
        yield from _small_base_settings(recipe, sources.base)


def works_at_large_resolution(base: BaseSource) -> bool:
    """Whether a base is far larger than the embedded one, as far as this is known without its files."""
    family = families()[base.family]
    if base.folder is not None:
        # advice must not fail a plan: the check of the base's configs reports what is wrong with them
        try:
            return family.native_resolution(base.folder) >= LARGE_RESOLUTION
        except (OSError, DbrunError):
            return False
    # not fetched yet: bases of the Hub that work on pixels may be as small as 64, those on latents are not
    return "vae" in family.subfolders


def _photograph_advice(key: str, pictures: Sequence[Picture], files: Mapping[str, Path],
                       store: Store) -> Iterator[Note]:
    """A warning if pictures for the embedded base look like photographs."""
    step = -(-len(pictures) // MAX_MEASURED)
    textures: list[float] = []
    for picture in pictures[::step]:
        measured = _texture(picture.digest, files[picture.digest], store)
        if measured is not None:
            textures.append(measured)
    store.save_caches()
    # the upper median; importing `statistics` would cost every plan 10 ms
    middle = len(textures) // 2
    if textures and sorted(textures)[middle] >= photographs.PHOTOGRAPH_TEXTURE:
        yield Note("base", f"`{key}.images` look like photographs, and the embedded base only draws cartoons of a "
                   "small world: name a base of the Hub, such as stable-diffusion-v1-5/stable-diffusion-v1-5",
                   "warning")


def _texture(digest: str, path: Path, store: Store) -> float | None:
    """Texture of a picture, measured once for each content; None if it cannot be measured."""
    # the measuring code is a part of the cache key: when it changes, every picture is measured again
    name = f"{store.digests.sha256(Path(photographs.__file__))[:16]}:{digest}"
    known = store.image_quality.get(name)
    if known is None:
        try:
            known = {"texture": photographs.texture(path)}
        except (OSError, RecipeError):
            # a plan does not decode pictures; the run, which does, says what is wrong with this one
            return None
        store.image_quality.put(name, known)
    return float(str(known["texture"]))


def _lone_picture_advice(key: str, pictures: Sequence[Picture]) -> Iterator[Note]:
    if len({picture.digest for picture in pictures}) == 1:
        yield Note("pictures", f"`{key}.images` holds one picture: its background and pose become part of the "
                   f"subject; add more ({FEW_PICTURES})", "warning")


def _class_word_advice(key: str, subject: Subject, recipe: Recipe) -> Iterator[Note]:
    """A warning if the instance prompt lacks the class's word, which is what ties the trigger to the class."""
    prompt = subject.instance_prompt
    # a learned token begins with the meaning of its initializer, which names the class
    if prompt is None or recipe.adapt.new_words or not subject.class_prompts:
        return
    class_words = _class_words(subject.class_prompts)
    if not class_words or any(word in prompt.lower() for word in class_words):
        return
    yield Note("prompts", f"`{key}.instance_prompt` '{prompt}' lacks the class's word: end it with "
               f"'{' '.join(class_words)}', as in `{key}.class_prompt`", "warning")


def _class_words(prompts: Sequence[str]) -> list[str]:
    """Words that all class prompts share and that name the class, in their order; empty if there is none."""
    each = [re.findall(r"[\w'-]+", prompt.lower()) for prompt in prompts]
    first, *others = each
    # a language that writes no spaces shows no words to compare
    if len(first) < 2:
        return []
    shared = set(first).intersection(*others)
    return [word for word in dict.fromkeys(first) if word in shared and word not in FILLER_WORDS]


def _flow_noise_advice(recipe: Recipe) -> Iterator[Note]:
    """A warning for noise that is not white: flow matching starts from white noise when it samples."""
    if families()[recipe.base.type].process != "flow":
        return
    for key in ("noise_offset", "pyramid_noise"):
        if getattr(recipe.objective, key):
            yield Note("training", f"`objective.{key}` makes noise that a base of flow matching never meets when it "
                       "samples, since it starts from white noise: leave it out", "warning")


def _distilled_base_advice(recipe: Recipe, base: BaseSource) -> Iterator[Note]:
    # advice must not fail a plan: the check of the base's configs reports what is wrong with them
    try:
        warning = families()[recipe.base.type].distillation_warning(base.folder, recipe.base.path)
    except (OSError, DbrunError):
        return
    if warning is not None:
        yield Note("base", f"the base {warning}", "warning")


def _small_base_settings(recipe: Recipe, base: BaseSource) -> Iterator[Note]:
    """Warnings about the resolution and the learning rates of the embedded base, left in a recipe for a large one."""
    if not works_at_large_resolution(base):
        return
    side = recipe.images.resolution
    # with the base's files at hand the check of its native resolution says so already, and more exactly
    if base.folder is None and side < LARGE_RESOLUTION:
        yield Note("base", f"`images.resolution` is {side}, and such bases are made for {LATENT_RESOLUTION} pixels or "
                   f"more: write `resolution: {LATENT_RESOLUTION}`", "warning")
    train, optimizer = recipe.train, recipe.train.optimizer
    most = optimizer.USUAL_RATES[1]
    rates = {"train.learning_rate": train.learning_rate}
    for name, adapter in recipe.adapt.adapters.items():
        if adapter.learning_rate is not None:
            rates[f"adapt.{name}.learning_rate"] = adapter.learning_rate
    for key, rate in rates.items():
        scaled = rate * train.learning_rate_scale
        # above `most` the optimizer's own warning is given
        if recipe.adapt.adapters and most * HIGH_RATE_SHARE < scaled <= most:
            yield Note("training", f"`{key}` {rate:g} suits the small embedded base; for this base about "
                       f"{USUAL_LARGE_RATE:g} is usual: write `learning_rate: {USUAL_LARGE_RATE:g}`", "warning")
