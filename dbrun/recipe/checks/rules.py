"""What must agree across keys, as far as the recipe alone can tell."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dbrun.adapters.embedding import Embedding
from dbrun.errors import KeyProblem
from dbrun.models.base import families
from dbrun.options.objective import check_objective
from dbrun.recipe.checks import exports
from dbrun.recipe.schema import images
from dbrun.recipe.schema.launch import check_launch
from dbrun.recipe.schema.model import Prior, Recipe
from dbrun.recipe.schema.subject import Subject
from dbrun.recipe.schema.train import DEFAULT_STEPS

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_rules(recipe: Recipe) -> list[KeyProblem]:
    """Every disagreement as (dotted key, message, fix)."""
    every = (_subject, _dataset, _captions, _prior, _class_images, _base, _components, _class_labels, _objective,
             _precision, _adapt, _trigger, _export, _length, _stop, _optimizer, _tf32, _images, _launch)
    return [finding for one in every for finding in one(recipe)]


def _subject(recipe: Recipe) -> Iterator[KeyProblem]:
    if recipe.subject is not None and recipe.subjects is not None:
        yield KeyProblem("subjects", "found beside `subject`, expected one of the two",
                         "take one away, or lay `subject=null` or `subjects=null` over it")
    elif not recipe.subjects_by_key:
        yield KeyProblem("subject", "missing, expected a mapping such as {images: …}: what is to be learnt",
                         "write `subject: {images: FOLDER, instance_prompt: a photo of sks dog}`, or several as "
                         "`subjects`")


def _dataset(recipe: Recipe) -> Iterator[KeyProblem]:
    for key, subject in recipe.subjects_by_key.items():
        if subject.revision is not None and not HUB_ID.fullmatch(subject.images):
            yield KeyProblem(f"{key}.revision",
                             f"found a revision, but '{subject.images}' is no data set of the Hub such as "
                             "owner/name", "take `revision` away, or write `revision: null` over an inherited one")


def _captions(recipe: Recipe) -> Iterator[KeyProblem]:
    for key, subject in recipe.subjects_by_key.items():
        given = subject.caption_source
        if subject.instance_prompt is None and (subject.captions is None or not given.PER_PICTURE):
            yield KeyProblem(f"{key}.instance_prompt",
                             "missing, expected text: the prompt of the pictures without one of their "
                             "own", "write it, or say with `captions: {type: sidecar}` that each picture has its own")
        if given.needs_trigger and subject.trigger is None and not recipe.adapt.new_words:
            yield KeyProblem(f"{key}.captions.template", f"found {{trigger}}, but no `{key}.trigger` to stand there",
                             "write `trigger: sks dog` beside `captions`, or the words themselves into the template")


def _prior(recipe: Recipe) -> Iterator[KeyProblem]:
    prior = recipe.prior
    for key, subject in recipe.subjects_by_key.items():
        yield from _class_fields(key, subject, recipe)
    if prior is None:
        return
    for key, subject in recipe.subjects_by_key.items():
        many = len(subject.class_prompts)
        if subject.class_prompt in recipe.generated_class_prompts and prior.generated_count < many:
            yield KeyProblem("prior.count",
                             f"found {prior.generated_count}, but `{key}.class_prompt` has {many} prompts: some would "
                             "be shown by no class image", f"write `count: {many}` or more")
    own = [key for key in ("prediction", "zero_terminal_snr") if getattr(recipe.objective, key)]
    if prior.target == "base" and own:
        yield KeyProblem("prior.target",
                         f"found 'base', but `objective.{own[0]}` asks for another prediction than the base's",
                         "write `target: images`, or leave the prediction as the base's")
    yield from _one_kind_of_prior(recipe, prior)


def _class_fields(key: str, subject: Subject, recipe: Recipe) -> Iterator[KeyProblem]:
    """What a subject says of its class fits the rest."""
    prompts, place, prior = subject.class_prompts, f"{key}.class_prompt", recipe.prior
    folder = "prior.images" if prior and prior.images is not None else f"{key}.class_images"
    if prior is None:
        nulls = f"`prior=null {key}.class_prompt=null`" if recipe.subject else "`prior=null`"
        for word in ("class_prompt", "class_images"):
            if getattr(subject, word):
                yield KeyProblem(f"{key}.{word}",
                                 f"found {'a class prompt' if word == 'class_prompt' else 'class images'}, but "
                                 "no `prior` to use it",
                                 f"add `prior: {{weight: 1.0}}`, or take this away too: {nulls} "
                                 "(`samples.prompts` may show the class all the same)")
        return
    if not prompts:
        yield KeyProblem(place, "missing, needed by `prior`: it says what the class images show",
                         f"add `class_prompt: a photo of a dog` under `{key}`, or take `prior` away")
    if any(one.instance_prompt in prompts for one in recipe.subjects_by_key.values()):
        yield KeyProblem(place, "found the instance prompt: what it teaches, `prior` would hold back",
                         "write the same without the trigger word, such as `a photo of a dog`")
    if len(prompts) > 1 and (prior.images is not None or subject.class_images is not None):
        yield KeyProblem(place, f"found a list, but which picture of `{folder}` shows what is for the pictures to say",
                         "write one prompt, and beside a picture that needs its own a .txt with it")
    if subject.class_images is not None and (prior.images is not None or prior.target == "base"):
        other = "prior.images" if prior.images is not None else "prior.target"
        yield KeyProblem(f"{key}.class_images",
                         f"found beside `{other}`, which says otherwise where the class half comes from",
                         "take one of the two away")


def _one_kind_of_prior(recipe: Recipe, prior: Prior) -> Iterator[KeyProblem]:
    """Class images are made, or the user's, or there are none: never two at once, and no word without a reader."""
    if prior.images is not None and prior.target == "base":
        yield KeyProblem("prior.target", "found 'base', which takes no class images, beside `prior.images`",
                         "write `target: images`, or `images: null`")
    if prior.images is not None and len(recipe.subjects_by_key) > 1:
        yield KeyProblem("prior.images", "found one folder for several subjects, but each has a class of its own",
                         "write it as `class_images` under each subject that has such a folder")
    if not recipe.subjects_by_key or recipe.generated_class_prompts:
        return
    if not all(one.class_prompt for one in recipe.subjects_by_key.values()):
        return
    why = "`target: base` takes none" if prior.target == "base" else (
        "`prior.images` names yours" if prior.images is not None else "`class_images` names yours")
    for key in ("count", "steps", "guidance"):
        if (value := getattr(prior, key)) is not None:
            yield KeyProblem(f"prior.{key}", f"found {value}, which says how class images are made, but {why}",
                             f"take it away, or lay `prior.{key}=null` over it")


def _class_images(recipe: Recipe) -> Iterator[KeyProblem]:
    family = families()[recipe.base.type]
    if recipe.generated_class_prompts and family.start_image_reason is not None:
        yield KeyProblem("prior",
                         f"found class images to be made, but `base.type: {family.NAME}` makes none from words: it "
                         f"{family.start_image_reason}",
                         "write `prior: {target: base}` or `prior: {images: FOLDER}`, or take `prior` away")


def _base(recipe: Recipe) -> Iterator[KeyProblem]:
    if recipe.base.revision is not None and not HUB_ID.fullmatch(recipe.base.path):
        yield KeyProblem("base.revision", f"found a revision, but '{recipe.base.path}' is no Hub id such as owner/name",
                         "take `revision` away, or write `revision: null` over an inherited one")


def _objective(recipe: Recipe) -> Iterator[KeyProblem]:
    yield from check_objective(recipe.objective, None)


def _components(recipe: Recipe) -> Iterator[KeyProblem]:
    family = families()[recipe.base.type]
    for name, why in family.not_adaptable.items():
        if getattr(recipe.adapt, name, None) is not None:
            yield KeyProblem(f"adapt.{name}", f"`base.type: {family.NAME}` cannot be adapted here: {why}",
                             "take it away")
    known = (*family.components, *family.token_components)
    for name in recipe.adapt.components:
        if name not in known and name not in family.not_adaptable:
            yield KeyProblem(f"adapt.{name}", f"found a component that `base.type: {family.NAME}` has not",
                             f"take it away; there {'is' if len(known) == 1 else 'are'} {', '.join(known)}")


def _class_labels(recipe: Recipe) -> Iterator[KeyProblem]:
    family, labels = families()[recipe.base.type], recipe.train.class_labels
    if labels is not None and labels not in family.class_labels:
        yield KeyProblem("train.class_labels", f"found '{labels}', allowed for `base.type: {family.NAME}`: "
                         f"{', '.join(family.class_labels)}", "leave it out")


def _precision(recipe: Recipe) -> Iterator[KeyProblem]:
    if recipe.train.precision == "fp16" and recipe.device == "cpu":
        yield KeyProblem("train.precision", "found 'fp16', allowed with `device: cpu`: fp32 or bf16",
                         "write `precision: bf16`, or leave `device` out")


def _adapt(recipe: Recipe) -> Iterator[KeyProblem]:
    family = families()[recipe.base.type]
    if not recipe.adapt.components:
        yield KeyProblem("adapt", "found nothing that learns", "add `denoiser: {type: lora}` under `adapt`")
    for component, one in recipe.adapt.components.items():
        yield from (KeyProblem(f"adapt.{component}.{field}", message, fix)
                    for field, message, fix in one.field_problems())
    for component, adapter in recipe.adapt.adapters.items():
        place = f"adapt.{component}"
        presets = family.target_presets.get(component, {})
        if adapter.linear_only_reason and adapter.targets == "all" and presets.get("all") != presets.get("linear"):
            yield KeyProblem(f"{place}.targets", f"found 'all', which holds convolutions: {adapter.linear_only_reason}",
                             "write `targets: linear`")


def _trigger(recipe: Recipe) -> Iterator[KeyProblem]:
    """A new word is learnt from the prompts that say it, and from no others."""
    for component, word in recipe.adapt.new_words.items():
        yield from _new_word(recipe, component, word)


def _new_word(recipe: Recipe, component: str, word: Embedding) -> Iterator[KeyProblem]:
    prompts = {key: one.instance_prompt for key, one in recipe.subjects_by_key.items() if one.instance_prompt}
    if prompts and not any(word.token in prompt for prompt in prompts.values()):
        yield KeyProblem(f"{next(iter(prompts))}.instance_prompt",
                         f"found no {word.token} in it, the word that `adapt.{component}` "
                         "teaches",
                         f"write it where the subject is named, such as `a photo of {word.token} {word.initializer}`")
    for key, subject in recipe.subjects_by_key.items():
        if any(word.token in prompt for prompt in subject.class_prompts):
            yield KeyProblem(f"{key}.class_prompt",
                             f"found {word.token} in it: the class is what the subject is one of, without "
                             "its own word", "write the same without it")


def _export(recipe: Recipe) -> Iterator[KeyProblem]:
    if not recipe.adapt.components:
        return
    if recipe.export and (lost := exports.uncovered_components(recipe, recipe.export)):
        yield KeyProblem("export", f"found no format that carries `adapt.{lost[0]}`, which would then be lost",
                         f"write `export: [{', '.join(exports.default_formats(recipe))}]`, or leave it out")
    for index, name in enumerate(recipe.export or ()):
        if name in (recipe.export or ())[:index]:
            yield KeyProblem(f"export.{index}", f"found '{name}' twice", "name each format once")
        elif why := exports.unsupported_reason(recipe, name):
            yield KeyProblem(f"export.{index}", f"found '{name}', {why}",
                             f"write `export: [{', '.join(exports.default_formats(recipe))}]`")


def _length(recipe: Recipe) -> Iterator[KeyProblem]:
    train = recipe.train
    if train.steps is not None and train.epochs is not None:
        yield KeyProblem("train.epochs",
                         f"found {train.epochs}, but `train.steps: {train.steps}` says already how long it goes",
                         "take one of them away, or lay `train.steps=null` over it")


def _launch(recipe: Recipe) -> Iterator[KeyProblem]:
    yield from check_launch(recipe.launch, recipe.train.accumulation, recipe.device)


def _stop(recipe: Recipe) -> Iterator[KeyProblem]:
    # how many steps epochs are is known only with the pictures
    if recipe.train.epochs is None:
        yield from check_step_limits(recipe, recipe.train.steps or DEFAULT_STEPS)


def check_step_limits(recipe: Recipe, steps: int) -> Iterator[KeyProblem]:
    """What would never come in a training of so many steps: a look at the held-out pictures, a component's stop."""
    held_out = recipe.train.held_out
    if held_out is not None and held_out.every > steps:
        yield KeyProblem("train.held_out.every",
                         f"found {held_out.every}, but there {'is' if steps == 1 else 'are'} only "
                         f"{steps} step{'' if steps == 1 else 's'}",
                         f"write `every: {max(1, steps // 10)}`")
    components = recipe.adapt.components
    stops = {name: stop for name, adapter in components.items() if (stop := adapter.stop_step(steps)) is not None}
    if stops and len(stops) == len(components):
        last = max(stops, key=lambda name: stops[name])
        yield KeyProblem(f"adapt.{last}.stop_at", f"found a stop, but nothing else learns after step {stops[last]}",
                         "take `stop_at` away; `train.steps` says how long training goes")
        return
    for name, stop in stops.items():
        if not 0 < stop < steps:
            yield KeyProblem(f"adapt.{name}.stop_at",
                             f"found step {stop}, but with {_length_text(recipe, steps)} a stop lies from 1 "
                             f"to {steps - 1}", "write a share such as 0.5, or take `stop_at` away")


def _length_text(recipe: Recipe, steps: int) -> str:
    epochs = recipe.train.epochs
    return f"`train.steps: {steps}`" if epochs is None else f"`train.epochs: {epochs}`, which are {steps} steps,"


def _optimizer(recipe: Recipe) -> Iterator[KeyProblem]:
    train, why = recipe.train, recipe.train.optimizer.SINGLE_RATE_REASON
    for name, adapter in recipe.adapt.components.items():
        if why and adapter.learning_rate not in (None, train.learning_rate):
            yield KeyProblem(f"adapt.{name}.learning_rate",
                             f"found {adapter.learning_rate:g}, but with `train.optimizer: "
                             f"{{type: {train.optimizer.NAME}}}` every component learns at `train.learning_rate`: "
                             f"{why}",
                             "take it away")
    if train.ema is not None and train.optimizer.HAS_EVAL_WEIGHTS:
        yield KeyProblem("train.ema",
                         f"found an average of what `train.optimizer: {{type: {train.optimizer.NAME}}}` averages "
                         "itself", "take one of them away")


def _tf32(recipe: Recipe) -> Iterator[KeyProblem]:
    if recipe.train.tf32 and recipe.device in ("cpu", "mps"):
        yield KeyProblem("train.tf32", f"found true, but `device: {recipe.device}` has no TF32", "take it away")


def _images(recipe: Recipe) -> Iterator[KeyProblem]:
    yield from images.check_images(recipe.images)
    if recipe.objective.unmasked_weight is not None and recipe.images.masks == "none":
        yield KeyProblem("objective.unmasked_weight",
                         f"found {recipe.objective.unmasked_weight:g}, but no picture has a mask",
                         "write `masks: files` (or `alpha`) under `images`, or take it away")
