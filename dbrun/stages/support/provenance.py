"""Provenance: the parts of a recipe and the inputs that shaped an adapter, without names and paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dbrun.config_types import Part
from dbrun.models.base import families
from dbrun.options.objective import DEFAULT_OBJECTIVE
from dbrun.recipe.schema.model import Prior, Recipe
from dbrun.stages.sources import Artifact, Numerics, Picture, Sources
from dbrun.stages.support.training_length import training_length


def portable_recipe(recipe: Recipe, sources: Sources) -> dict[str, object]:
    """The recipe as far as it shapes the adapter: without its name, with digests instead of paths, as plain data."""
    # equal trainings must give equal documents, whatever their recipes are called and wherever their files are; and the
    # document is a param of `export`, so that every entry is part of its cache key
    base = sources.base
    base_document: dict[str, object] = {"type": base.family, "identity": base.identity, "variant": base.variant}
    for key in ("prompt_chunks", "clip_skip"):
        if getattr(recipe.base, key) > 1:
            base_document[key] = getattr(recipe.base, key)
    # only a checkpoint of one file has a prediction; all other documents stay as they were
    for key in ("prediction", "quantise"):
        value = getattr(recipe.base, key)
        if value is not None:
            base_document[key] = value
    document: dict[str, object] = {"schema": recipe.schema_, "base": base_document}
    document |= _subjects(recipe, sources)
    document["prior"] = None
    if recipe.prior:
        document["prior"] = _prior(recipe.prior, recipe, sources)
    document |= {"images": plain_part(recipe.images), "adapt": _adapt(recipe, sources),
                 "train": _train(recipe, sources)}
    if recipe.objective != DEFAULT_OBJECTIVE:
        document["objective"] = plain_part(recipe.objective)
    document["seed"] = recipe.seed
    return document


def _subjects(recipe: Recipe, sources: Sources) -> dict[str, object]:
    """The prompts and pictures of the subjects, under `subject` or, where there are several, `subjects`."""
    subjects: list[dict[str, object]] = []
    tokens = {word.token for word in recipe.adapt.new_words.values()}
    pictures_by_subject = sources.pictures_by_subject or (sources.pictures,)
    for subject, pictures in zip(recipe.subjects_by_key.values(), pictures_by_subject, strict=True):
        document: dict[str, object] = {"instance_prompt": subject.instance_prompt, "class_prompt": subject.class_prompt,
                                       "pictures": _pictures(pictures)}
        # most recipes name none, and a new word stands under `adapt`: earlier documents stay as they were
        if subject.trigger is not None and subject.trigger not in tokens:
            document["trigger"] = subject.trigger
        subjects.append(document)
    if len(subjects) == 1:
        return {"subject": subjects[0]}
    return {"subjects": subjects}


RUNTIME_KEYS = ("checkpoint_every", "keep", "gradient_checkpointing")
"""The keys of `train` that change no result."""


def _train(recipe: Recipe, sources: Sources) -> dict[str, object]:
    """The keys of `train` that change the result, with epochs converted to steps."""
    resolved = {"precision": recipe.train.resolved_precision, "steps": training_length(recipe, sources).steps}
    document = {**plain_part(recipe.train), **resolved}
    # candidates lie beside the adapter and do not shape it
    for key in ("epochs", "candidates", *RUNTIME_KEYS):
        document.pop(key, None)
    # the default is left out, as in a recipe that does not name it
    if document.get("class_labels") == families()[sources.base.family].class_labels[0]:
        document.pop("class_labels", None)
    return document


def _adapt(recipe: Recipe, sources: Sources) -> dict[str, object]:
    """The adapters, with the identities of those to start from in place of their paths."""
    with_identity: dict[str, Part] = {}
    for name, identity in sources.inits.items():
        with_identity[name] = recipe.adapt.components[name].model_copy(update={"init": identity})
    return plain_part(recipe.adapt.model_copy(update=with_identity))


def _prior(prior: Prior, recipe: Recipe, sources: Sources) -> dict[str, object]:
    """The keys of `prior` that change the result."""
    document = {**plain_part(prior), "count": prior.generated_count}
    if prior.precision == recipe.train.resolved_precision:
        document.pop("precision")
    if not recipe.generated_class_prompts:
        # sampler settings without effect
        for key in (*Prior.GENERATION_KEYS, "images"):
            document.pop(key, None)
    if sources.class_pictures:
        document["pictures"] = _pictures(sources.class_pictures)
    return document


def _pictures(pictures: Sequence[Picture]) -> list[dict[str, object]]:
    """Pictures by digest, with their prompts and what else training reads of them."""
    documents: list[dict[str, object]] = []
    for picture in pictures:
        document: dict[str, object] = {"digest": picture.digest, "prompt": picture.prompt}
        # what a picture does not use is left out: a feature that is off leaves earlier documents as they were
        if picture.variants:
            document["variants"] = picture.variants
        if picture.dropout:
            document["dropout"] = picture.dropout
        if picture.mask:
            document["mask"] = picture.mask
        if picture.repeats > 1:
            document["repeats"] = picture.repeats
        documents.append(document)
    return documents


def plain_part(part: Part) -> dict[str, object]:
    """A part of a recipe as plain data, without the fields that have their neutral value."""
    document: dict[str, object] = {}
    for name in type(part).model_fields:
        value = getattr(part, name)
        if name in part.NEUTRAL and value == part.NEUTRAL[name]:
            continue
        document[name] = plain_part(value) if isinstance(value, Part) else value
    return document


def provenance(recipe: Mapping[str, object], instance_prompt: str | Sequence[str] | None,
               inputs: Mapping[str, Artifact], numerics: Numerics, libraries: Sequence[str]) -> dict[str, object]:
    """The provenance document in an exported file's header; equal runs give equal documents.

    recipe: what `portable_recipe` gave; inputs: stage name -> artifact; libraries: names of packages.
    """
    from importlib.metadata import version

    # as in the cache key: a patch release gives the same bytes, and so must say the same
    minor = {name: ".".join(version(name).split(".")[:2]) for name in libraries}
    return {"format_version": 1, "instance_prompt": instance_prompt, "recipe": dict(recipe),
            "inputs": {name: artifact.digest for name, artifact in sorted(inputs.items())},
            "numerics": {"device": numerics.device, "threads": numerics.threads}, "libraries": minor}
