"""Rules between keys of a recipe: everything that can be checked without reading the base or the pictures."""

from __future__ import annotations

from collections.abc import Iterator

from dbrun.adapters.embedding import Embedding
from dbrun.config_types import Part
from dbrun.errors import KeyProblem
from dbrun.models.base import families
from dbrun.naming import CHECKPOINT_SUFFIXES, HUB_ID
from dbrun.options.objective import check_objective
from dbrun.recipe.checks import exports
from dbrun.recipe.checks.score_rules import check_kept_step, check_scores
from dbrun.recipe.checks.weight_rules import check_weights
from dbrun.recipe.schema import images
from dbrun.recipe.schema.launch import check_launch
from dbrun.recipe.schema.model import Prior, Recipe
from dbrun.recipe.schema.subject import Subject
from dbrun.recipe.schema.train import DEFAULT_STEPS


def check_rules(recipe: Recipe) -> list[KeyProblem]:
    """All problems between keys of a valid recipe."""
    rules = (_subject, _dataset, _captions, _prior, _class_images, _base, check_weights, _prompt_reading,
             _components, _class_labels, _guidance, _objective, _precision, _adapt, _trigger, _export, _length, _stop,
             _optimizer, _tf32, _speedups, _images, _launch, check_scores)
    problems: list[KeyProblem] = []
    for rule in rules:
        problems += rule(recipe)
    return problems


def _subject(recipe: Recipe) -> Iterator[KeyProblem]:
    if recipe.subject is not None and recipe.subjects is not None:
        yield KeyProblem("subjects", "found beside `subject`, expected one of the two",
                         "remove one, or override it with `subject=null` or `subjects=null`")
    elif not recipe.subjects_by_key:
        yield KeyProblem("subject", "missing, expected a mapping such as {images: …}: what is learned",
                         "write `subject: {images: FOLDER, instance_prompt: a photo of sks dog}`, or several as "
                         "`subjects`")


def _dataset(recipe: Recipe) -> Iterator[KeyProblem]:
    for key, subject in recipe.subjects_by_key.items():
        if subject.revision is not None and not HUB_ID.fullmatch(subject.images):
            yield KeyProblem(f"{key}.revision",
                             f"found a revision, but '{subject.images}' is not a data set of the Hub such as "
                             "owner/name", "remove `revision`, or write `revision: null` over an inherited one")


def _captions(recipe: Recipe) -> Iterator[KeyProblem]:
    for key, subject in recipe.subjects_by_key.items():
        source = subject.caption_source
        # whether every picture has a caption is known only with the pictures; naming the source says that they have
        if subject.instance_prompt is None and (subject.captions is None or not source.PER_PICTURE):
            yield KeyProblem(f"{key}.instance_prompt",
                             "missing, expected text: the prompt of pictures without a caption",
                             "write it, or `captions: {type: sidecar}` if each picture has a caption")
        if source.needs_trigger and subject.trigger is None and not recipe.adapt.new_words:
            yield KeyProblem(f"{key}.captions.template", f"found {{trigger}}, but no `{key}.trigger` to replace it",
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
                             "get no class image", f"write `count: {many}` or more")
    changed = [key for key in ("prediction", "zero_terminal_snr") if getattr(recipe.objective, key)]
    # the base's output could not serve as the target of another quantity
    if prior.target == "base" and changed:
        yield KeyProblem("prior.target",
                         f"found 'base', but `objective.{changed[0]}` makes the denoiser predict something else than "
                         "the base does", "write `target: images`, or leave the prediction as the base's")
    yield from _one_kind_of_prior(recipe, prior)


def _class_fields(key: str, subject: Subject, recipe: Recipe) -> Iterator[KeyProblem]:
    """Problems between a subject's class and `prior`."""
    prompts, place, prior = subject.class_prompts, f"{key}.class_prompt", recipe.prior
    if prior is None:
        yield from _class_without_prior(key, subject, recipe)
        return
    if not prompts:
        yield KeyProblem(place, "missing, needed by `prior`: it says what the class images show",
                         f"add `class_prompt: a photo of a dog` under `{key}`, or remove `prior`")
    if any(other.instance_prompt in prompts for other in recipe.subjects_by_key.values()):
        yield KeyProblem(place, "found the instance prompt: `prior` would undo what that prompt teaches",
                         "write the same without the trigger word, such as `a photo of a dog`")
    if len(prompts) > 1 and (prior.images is not None or subject.class_images is not None):
        folder = "prior.images" if prior.images is not None else f"{key}.class_images"
        yield KeyProblem(place, f"found a list, but nothing says which picture of `{folder}` shows which prompt",
                         "write one prompt, and a .txt file beside each picture that needs its own")
    if subject.class_images is not None and (prior.images is not None or prior.target == "base"):
        other_key = "prior.images" if prior.images is not None else "prior.target"
        yield KeyProblem(f"{key}.class_images",
                         f"found beside `{other_key}`, but the class half can have only one source",
                         "remove one of the two")


def _class_without_prior(key: str, subject: Subject, recipe: Recipe) -> Iterator[KeyProblem]:
    # the nulls are for the command line, which cannot set a key inside the list `subjects`
    nulls = f"`prior=null {key}.class_prompt=null`" if recipe.subject else "`prior=null`"
    for field, name in (("class_prompt", "a class prompt"), ("class_images", "class images")):
        if getattr(subject, field):
            yield KeyProblem(f"{key}.{field}", f"found {name}, but no `prior` to use it",
                             f"add `prior: {{weight: 1.0}}`, or remove this key; on the command line: {nulls}")


def _one_kind_of_prior(recipe: Recipe, prior: Prior) -> Iterator[KeyProblem]:
    """Problems of several sources of class images at once, and of settings that the chosen source ignores."""
    if prior.images is not None and prior.target == "base":
        yield KeyProblem("prior.target", "found 'base', which uses no class images, but `prior.images` is set",
                         "write `target: images`, or `images: null`")
    if prior.images is not None and len(recipe.subjects_by_key) > 1:
        yield KeyProblem("prior.images", "found one folder for several subjects, but each has a class of its own",
                         "write it as `class_images` under each subject that has such a folder")
    if not recipe.subjects_by_key or recipe.generated_class_prompts:
        return
    # a missing class prompt is a problem of its own; this one would only follow from it
    if not all(subject.class_prompt for subject in recipe.subjects_by_key.values()):
        return
    if prior.target == "base":
        why = "`target: base` uses none"
    elif prior.images is not None:
        why = "`prior.images` names your own"
    else:
        why = "`class_images` names your own"
    for key in prior.GENERATION_KEYS:
        value = getattr(prior, key)
        if value is not None:
            yield KeyProblem(f"prior.{key}", f"found {value}, which sets how class images are generated, but {why}",
                             f"remove it, or override it with `prior.{key}=null`")


def _class_images(recipe: Recipe) -> Iterator[KeyProblem]:
    family = families()[recipe.base.type]
    if recipe.generated_class_prompts and family.start_image_reason is not None:
        yield KeyProblem("prior",
                         f"found class images to generate, but `base.type: {family.NAME}` generates none from text: it "
                         f"{family.start_image_reason}",
                         "write `prior: {target: base}` or `prior: {images: FOLDER}`, or remove `prior`")


def _base(recipe: Recipe) -> Iterator[KeyProblem]:
    if recipe.base.revision is not None and not HUB_ID.fullmatch(recipe.base.path):
        yield KeyProblem("base.revision",
                         f"found a revision, but '{recipe.base.path}' is not a Hub id such as owner/name",
                         "remove `revision`, or write `revision: null` over an inherited one")
    if recipe.base.path.lower().endswith(CHECKPOINT_SUFFIXES):
        if recipe.base.variant is not None:
            yield KeyProblem("base.variant", f"found '{recipe.base.variant}', but '{recipe.base.path}' is one file, "
                             "which has no variants",
                             "remove `variant`, or write `variant: null` over an inherited one")
        return
    for key in ("like", "prediction"):
        value = getattr(recipe.base, key)
        if value is not None:
            yield KeyProblem(f"base.{key}", f"found '{value}', which is for a base in a checkpoint of one file, and "
                             f"'{recipe.base.path}' is none",
                             f"remove `{key}`, or write `{key}: null` over an inherited one")


def _objective(recipe: Recipe) -> Iterator[KeyProblem]:
    # runs again with the base's scheduler config, once that is here
    yield from check_objective(recipe.objective, families()[recipe.base.type].process, None)


def _components(recipe: Recipe) -> Iterator[KeyProblem]:
    family = families()[recipe.base.type]
    for name, why in family.not_adaptable.items():
        if getattr(recipe.adapt, name, None) is not None:
            yield KeyProblem(f"adapt.{name}", f"`base.type: {family.NAME}` cannot be adapted here: {why}",
                             "remove it")
    allowed = (*family.components, *family.token_components)
    for name in recipe.adapt.components:
        if name not in allowed and name not in family.not_adaptable:
            yield KeyProblem(f"adapt.{name}", f"found a component that `base.type: {family.NAME}` does not have",
                             f"remove it; allowed: {', '.join(allowed)}")


def _class_labels(recipe: Recipe) -> Iterator[KeyProblem]:
    family, labels = families()[recipe.base.type], recipe.train.class_labels
    if labels is not None and labels not in family.class_labels:
        yield KeyProblem("train.class_labels", f"found '{labels}', allowed for `base.type: {family.NAME}`: "
                         f"{', '.join(family.class_labels)}", "leave it out")


def _guidance(recipe: Recipe) -> Iterator[KeyProblem]:
    family, guidance = families()[recipe.base.type], recipe.train.guidance
    if guidance is not None and not family.embeds_guidance:
        yield KeyProblem("train.guidance", f"found {guidance:g}, but the denoiser of `base.type: {family.NAME}` takes "
                         "no guidance scale",
                         "leave it out; for sampling there are `samples.guidance` and `prior.guidance`")


def _prompt_reading(recipe: Recipe) -> Iterator[KeyProblem]:
    base, family = recipe.base, families()[recipe.base.type]
    if base.prompt_chunks > 1 and family.one_piece_reason:
        yield KeyProblem("base.prompt_chunks", f"found {base.prompt_chunks}, allowed: 1; `base.type: {family.NAME}` "
                         f"{family.one_piece_reason}", "leave it out")
    if base.clip_skip > 1 and family.clip_skip_reason:
        yield KeyProblem("base.clip_skip", f"found {base.clip_skip}, allowed: 1; `base.type: {family.NAME}` "
                         f"{family.clip_skip_reason}", "leave it out")


def _precision(recipe: Recipe) -> Iterator[KeyProblem]:
    if recipe.device != "cpu":
        return
    for key in recipe.keys_with_precision("fp16"):
        yield KeyProblem(key, "found 'fp16', allowed with `device: cpu`: fp32 or bf16",
                         "write `precision: bf16`, or leave `device` out")


def _adapt(recipe: Recipe) -> Iterator[KeyProblem]:
    family = families()[recipe.base.type]
    if not recipe.adapt.components:
        yield KeyProblem("adapt", "found nothing that learns", "add `denoiser: {type: lora}` under `adapt`")
    for component, one in recipe.adapt.components.items():
        for field, message, fix in one.field_problems():
            yield KeyProblem(f"adapt.{component}.{field}", message, fix)
    for component, adapter in recipe.adapt.adapters.items():
        place = f"adapt.{component}"
        # a component without convolutions has the same layers under both names
        presets = family.target_presets.get(component, {})
        if presets and isinstance(adapter.targets, str) and adapter.targets not in presets:
            yield KeyProblem(f"{place}.targets", f"found '{adapter.targets}', allowed for `base.type: {family.NAME}`: "
                             f"{', '.join(presets)}, or patterns", f"write `targets: {tuple(presets)[-1]}`")
        if (adapter.linear_only_reason and adapter.targets == "all" and "all" in presets
                and presets["all"] != presets["linear"]):
            yield KeyProblem(f"{place}.targets", f"found 'all', which holds convolutions: {adapter.linear_only_reason}",
                             "write `targets: linear`")


def _trigger(recipe: Recipe) -> Iterator[KeyProblem]:
    """A learned token must be in an instance prompt, and in no class prompt."""
    for component, word in recipe.adapt.new_words.items():
        yield from _new_word(recipe, component, word)


def _new_word(recipe: Recipe, component: str, word: Embedding) -> Iterator[KeyProblem]:
    prompts: dict[str, str] = {}
    for key, subject in recipe.subjects_by_key.items():
        if subject.instance_prompt:
            prompts[f"{key}.instance_prompt"] = subject.instance_prompt
    # one subject is enough: several may share an adapter of which only one has a token
    if prompts and not any(word.token in prompt for prompt in prompts.values()):
        yield KeyProblem(next(iter(prompts)),
                         f"found no {word.token} in it, the token that `adapt.{component}` learns",
                         f"write it where the subject is named, such as `a photo of {word.token} {word.initializer}`")
    for key, subject in recipe.subjects_by_key.items():
        if any(word.token in prompt for prompt in subject.class_prompts):
            yield KeyProblem(f"{key}.class_prompt",
                             f"found {word.token} in it, but a class prompt must not name the subject",
                             "write the same without it")


def _export(recipe: Recipe) -> Iterator[KeyProblem]:
    # without `export` the default formats are written, which cover every component
    if not recipe.adapt.components or not recipe.export:
        return
    lost = exports.uncovered_components(recipe, recipe.export)
    if lost:
        yield KeyProblem("export", f"found no format that carries `adapt.{lost[0]}`, which would then be lost",
                         f"{_default_export(recipe)}, or leave it out")
    for index, name in enumerate(recipe.export):
        reason = exports.unsupported_reason(recipe, name)
        if name in recipe.export[:index]:
            yield KeyProblem(f"export.{index}", f"found '{name}' twice", "name each format once")
        elif reason:
            yield KeyProblem(f"export.{index}", f"found '{name}', {reason}", _default_export(recipe))


def _default_export(recipe: Recipe) -> str:
    return f"write `export: [{', '.join(exports.default_formats(recipe))}]`"


def _length(recipe: Recipe) -> Iterator[KeyProblem]:
    train = recipe.train
    if train.steps is not None and train.epochs is not None:
        yield KeyProblem("train.epochs",
                         f"found {train.epochs}, but `train.steps: {train.steps}` already sets the length",
                         "remove one of them, or override one with `train.steps=null`")


def _launch(recipe: Recipe) -> Iterator[KeyProblem]:
    yield from check_launch(recipe.launch, recipe.train.accumulation, recipe.device)


def _stop(recipe: Recipe) -> Iterator[KeyProblem]:
    # the number of steps of an epoch is known only with the pictures
    if recipe.train.epochs is None:
        yield from check_step_limits(recipe, recipe.train.steps or DEFAULT_STEPS)


def check_step_limits(recipe: Recipe, steps: int) -> Iterator[KeyProblem]:
    """Settings that would have no effect in a training of `steps` steps: what begins after its end, and stops."""
    yield from _beyond_the_end(recipe, (), steps)
    yield from check_kept_step(recipe, steps)
    components = recipe.adapt.components
    stops: dict[str, int] = {}
    for name, adapter in components.items():
        stop = adapter.stop_step(steps)
        if stop is not None:
            stops[name] = stop
    # with a stop on every component, the steps after the last one would compute nothing
    if stops and len(stops) == len(components):
        last = max(stops, key=lambda name: stops[name])
        yield KeyProblem(f"adapt.{last}.stop_at", f"found a stop, but nothing else learns after step {stops[last]}",
                         "remove `stop_at`; `train.steps` sets how long training goes")
        return
    for name, stop in stops.items():
        if not 0 < stop < steps:
            yield KeyProblem(f"adapt.{name}.stop_at",
                             f"found step {stop}, allowed with {_length_text(recipe, steps)}: from 1 to "
                             f"{steps - 1}", "write a share such as 0.5, or remove `stop_at`")


def _beyond_the_end(part: Part, path: tuple[str, ...], steps: int) -> Iterator[KeyProblem]:
    """Numbers of steps in a part, and in the parts below it, that no training of `steps` steps reaches."""
    for field, most in part.step_limits(steps).items():
        found = getattr(part, field)
        if found is not None and found > most:
            key = ".".join((*path, field))
            yield KeyProblem(key, f"found {found}, but training has only {_count(steps)}; allowed: at most {most}",
                             f"write `{field}: {min(most, max(1, steps // 10))}`")
    for name in type(part).model_fields:
        below = getattr(part, name)
        if isinstance(below, Part):
            yield from _beyond_the_end(below, (*path, name), steps)


def _count(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def _length_text(recipe: Recipe, steps: int) -> str:
    epochs = recipe.train.epochs
    if epochs is None:
        return f"`train.steps: {steps}`"
    return f"`train.epochs: {epochs}` ({steps} steps)"


def _optimizer(recipe: Recipe) -> Iterator[KeyProblem]:
    train, optimizer = recipe.train, recipe.train.optimizer
    reason = optimizer.SINGLE_RATE_REASON
    for name, adapter in recipe.adapt.components.items():
        if reason and adapter.learning_rate not in (None, train.learning_rate):
            yield KeyProblem(f"adapt.{name}.learning_rate",
                             f"found {adapter.learning_rate:g}, but with `train.optimizer: "
                             f"{{type: {optimizer.NAME}}}` every component learns at `train.learning_rate`: {reason}",
                             "remove it")
    if train.ema is not None and optimizer.HAS_EVAL_WEIGHTS:
        yield KeyProblem("train.ema",
                         f"found an average of the weights, but `train.optimizer: {{type: {optimizer.NAME}}}` already "
                         "averages them", "remove one of them")


def _tf32(recipe: Recipe) -> Iterator[KeyProblem]:
    # silently without effect, and the user would take the speed for TF32's
    if recipe.train.tf32 and recipe.device in ("cpu", "mps"):
        yield KeyProblem("train.tf32", f"found true, but `device: {recipe.device}` has no TF32", "remove it")


def _speedups(recipe: Recipe) -> Iterator[KeyProblem]:
    asked = [name for name in ("compile", "graph") if getattr(recipe.train, name)]
    if recipe.base.offload:
        for name in asked:
            yield KeyProblem(f"train.{name}", "found true, but with `base.offload` a block's weights are on the GPU "
                             "only while it computes, which it cannot follow", "remove one of the two")


def _images(recipe: Recipe) -> Iterator[KeyProblem]:
    yield from images.check_images(recipe.images)
    if recipe.objective.unmasked_weight is not None and recipe.images.masks == "none":
        yield KeyProblem("objective.unmasked_weight",
                         f"found {recipe.objective.unmasked_weight:g}, but no picture has a mask",
                         "write `masks: files` (or `alpha`) under `images`, or remove it")
