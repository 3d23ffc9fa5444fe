"""What must agree across keys, as far as the recipe alone can tell."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dbrun.families.base import families
from dbrun.recipe import exports
from dbrun.recipe.model import Prior, Recipe
from dbrun.recipe.objective import misfits

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
Finding = tuple[str, str, str | None]


def check(recipe: Recipe) -> list[Finding]:
    """Every disagreement as (dotted key, message, fix)."""
    every = (_prior, _class_images, _base, _components, _class_labels, _objective, _precision, _adapt, _trigger,
             _export, _stop, _optimizer)
    return [finding for one in every for finding in one(recipe)]


def _prior(recipe: Recipe) -> Iterator[Finding]:
    prior, prompts = recipe.prior, recipe.subject.class_prompts
    if prior is None:
        if prompts:
            yield ("subject.class_prompt", "found a class prompt, but no `prior` to use it",
                   "add `prior: {weight: 1.0}`, or take this away too: `prior=null subject.class_prompt=null` "
                   "(`samples.prompts` may show the class all the same)")
        return
    if not prompts:
        yield ("subject.class_prompt", "missing, needed by `prior`: it says what the class images show",
               "add `class_prompt: a photo of a dog` under `subject`, or take `prior` away")
    if recipe.subject.instance_prompt in prompts:
        yield ("subject.class_prompt", "found the instance prompt: what it teaches, `prior` would hold back",
               "write the same without the trigger word, such as `a photo of a dog`")
    if 0 < prior.made < len(prompts):
        yield ("prior.count", f"found {prior.made}, but `subject.class_prompt` has {len(prompts)} prompts: some would "
               "be shown by no class image", f"write `count: {len(prompts)}` or more")
    if prior.images is not None and len(prompts) > 1:
        yield ("subject.class_prompt", "found a list, but which picture of `prior.images` shows what is for the "
               "pictures to say", "write one prompt, and beside a picture that needs its own a .txt with it")
    own = [key for key in ("prediction", "zero_terminal_snr") if getattr(recipe.objective, key)]
    if prior.target == "base" and own:
        yield ("prior.target", f"found 'base', but `objective.{own[0]}` asks for another prediction than the base's",
               "write `target: images`, or leave the prediction as the base's")
    yield from _one_kind_of_prior(prior)


def _one_kind_of_prior(prior: Prior) -> Iterator[Finding]:
    """Class images are made, or the user's, or there are none: never two at once, and no word without a reader."""
    if prior.images is not None and prior.target == "base":
        yield ("prior.target", "found 'base', which takes no class images, beside `prior.images`",
               "write `target: images`, or `images: null`")
    if prior.made:
        return
    why = "`target: base` takes none" if prior.target == "base" else "`prior.images` names yours"
    for key in ("count", "steps", "guidance"):
        if (value := getattr(prior, key)) is not None:
            yield (f"prior.{key}", f"found {value}, which says how class images are made, but {why}",
                   f"take it away, or lay `prior.{key}=null` over it")


def _class_images(recipe: Recipe) -> Iterator[Finding]:
    family = families()[recipe.base.type]
    if recipe.prior is not None and recipe.prior.made and family.enlarges > 1:
        yield ("prior", f"found class images to be made, but `base.type: {family.NAME}` makes none from words: it "
               "enlarges pictures", "write `prior: {target: base}` or `prior: {images: FOLDER}`, or take `prior` away")


def _base(recipe: Recipe) -> Iterator[Finding]:
    if recipe.base.revision is not None and not HUB_ID.fullmatch(recipe.base.path):
        yield ("base.revision", f"found a revision, but '{recipe.base.path}' is no Hub id such as owner/name",
               "take `revision` away, or write `revision: null` over an inherited one")


def _objective(recipe: Recipe) -> Iterator[Finding]:
    yield from misfits(recipe.objective, None)


def _components(recipe: Recipe) -> Iterator[Finding]:
    family = families()[recipe.base.type]
    for name, why in family.fixed.items():
        if getattr(recipe.adapt, name, None) is not None:
            yield f"adapt.{name}", f"`base.type: {family.NAME}` cannot be adapted here: {why}", "take it away"


def _class_labels(recipe: Recipe) -> Iterator[Finding]:
    family, labels = families()[recipe.base.type], recipe.train.class_labels
    if labels is not None and labels not in family.class_labels:
        yield ("train.class_labels", f"found '{labels}', allowed for `base.type: {family.NAME}`: "
               f"{', '.join(family.class_labels)}", "leave it out")


def _precision(recipe: Recipe) -> Iterator[Finding]:
    if recipe.train.precision == "fp16" and recipe.device == "cpu":
        yield ("train.precision", "found 'fp16', allowed with `device: cpu`: fp32 or bf16",
               "write `precision: bf16`, or leave `device` out")


def _adapt(recipe: Recipe) -> Iterator[Finding]:
    family = families()[recipe.base.type]
    if not recipe.adapt.components:
        yield ("adapt", "found nothing that learns", "add `denoiser: {type: lora}` under `adapt`")
    for component, one in recipe.adapt.components.items():
        yield from ((f"adapt.{component}.{field}", message, fix) for field, message, fix in one.faults())
    for component, adapter in recipe.adapt.adapters.items():
        place = f"adapt.{component}"
        presets = family.presets.get(component, {})
        if adapter.linear_only and adapter.targets == "all" and presets.get("all") != presets.get("linear"):
            yield (f"{place}.targets", f"found 'all', which holds convolutions: {adapter.linear_only}",
                   "write `targets: linear`")


def _trigger(recipe: Recipe) -> Iterator[Finding]:
    """The new word is learnt from the prompts that say it, and from no others."""
    word, subject = recipe.adapt.trigger, recipe.subject
    if word is None:
        return
    if word.token not in subject.instance_prompt:
        yield ("subject.instance_prompt", f"found no {word.token} in it, the word that `adapt.trigger` teaches",
               f"write it where the subject is named, such as `a photo of {word.token} {word.initializer}`")
    if any(word.token in prompt for prompt in subject.class_prompts):
        yield ("subject.class_prompt", f"found {word.token} in it: the class is what the subject is one of, without "
               "its own word", "write the same without it")


def _export(recipe: Recipe) -> Iterator[Finding]:
    if recipe.export and (lost := exports.uncarried(recipe, recipe.export)):
        yield ("export", f"found no format that carries `adapt.{lost[0]}`, which would then be lost",
               f"write `export: [{', '.join(exports.fitting(recipe))}]`, or leave it out")
    for index, name in enumerate(recipe.export or ()):
        if name in (recipe.export or ())[:index]:
            yield f"export.{index}", f"found '{name}' twice", "name each format once"
        elif why := exports.refusal(recipe, name):
            yield (f"export.{index}", f"found '{name}', {why}",
                   f"write `export: [{', '.join(exports.fitting(recipe))}]`")


def _stop(recipe: Recipe) -> Iterator[Finding]:
    steps, components = recipe.train.steps, recipe.adapt.components
    stops = {name: stop for name, adapter in components.items() if (stop := adapter.stop(steps)) is not None}
    if stops and len(stops) == len(components):
        last = max(stops, key=lambda name: stops[name])
        yield (f"adapt.{last}.stop_at", f"found a stop, but nothing else learns after step {stops[last]}",
               "take `stop_at` away; `train.steps` says how long training goes")
        return
    for name, stop in stops.items():
        if not 0 < stop < steps:
            yield (f"adapt.{name}.stop_at", f"found step {stop}, but with `train.steps: {steps}` a stop lies from 1 "
                   f"to {steps - 1}", "write a share such as 0.5, or take `stop_at` away")


def _optimizer(recipe: Recipe) -> Iterator[Finding]:
    train, why = recipe.train, recipe.train.optimizer.ONE_RATE
    for name, adapter in recipe.adapt.components.items():
        if why and adapter.learning_rate not in (None, train.learning_rate):
            yield (f"adapt.{name}.learning_rate", f"found {adapter.learning_rate:g}, but with `train.optimizer: "
                   f"{{type: {train.optimizer.NAME}}}` every component learns at `train.learning_rate`: {why}",
                   "take it away")
