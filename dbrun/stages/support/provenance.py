"""What of a recipe and its inputs shaped the adapter, whatever its name and place?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dbrun.config_types import Part
from dbrun.models.base import families
from dbrun.options.objective import DEFAULT_OBJECTIVE
from dbrun.recipe.schema.model import Prior, Recipe
from dbrun.stages.sources import Artifact, Numerics, Picture, Sources
from dbrun.stages.support.training_length import training_length


def portable_recipe(recipe: Recipe, sources: Sources) -> dict[str, object]:
    """What of the recipe shapes the adapter: without its name, with contents instead of places."""
    base = sources.base
    objective = {"objective": plain_part(recipe.objective)} if recipe.objective != DEFAULT_OBJECTIVE else {}
    return {"schema": recipe.schema_,
            "base": {"type": base.family, "identity": base.identity, "variant": base.variant},
            **_subjects(recipe, sources),
            "prior": _prior(recipe.prior, sources, made=bool(recipe.generated_class_prompts)) if recipe.prior else None,
            "images": plain_part(recipe.images), "adapt": _adapt(recipe, sources),
            "train": _train(recipe, sources),
            **objective, "seed": recipe.seed}


def _subjects(recipe: Recipe, sources: Sources) -> dict[str, object]:
    """What is taught: its prompts, and its pictures as contents."""
    told = [{"instance_prompt": one.instance_prompt, "class_prompt": one.class_prompt, "pictures": _pictures(pictures)}
            for one, pictures in zip(recipe.subjects_by_key.values(),
                                     sources.pictures_by_subject or (sources.pictures,), strict=True)]
    return {"subject": told[0]} if len(told) == 1 else {"subjects": told}


RUNTIME_KEYS = ("checkpoint_every", "keep", "gradient_checkpointing")
"""What of `train` changes no result."""


def _train(recipe: Recipe, sources: Sources) -> dict[str, object]:
    """What of `train` counts; epochs as the steps that they are."""
    words = {**plain_part(recipe.train), "steps": training_length(recipe, sources).steps}
    usual = families()[sources.base.family].class_labels[0]
    return {key: value for key, value in words.items()
            if key not in ("epochs", *RUNTIME_KEYS) and (key, value) != ("class_labels", usual)}


def _adapt(recipe: Recipe, sources: Sources) -> dict[str, object]:
    """The adapters; those to start from as contents."""
    inits = {name: recipe.adapt.components[name].model_copy(update={"init": identity})
             for name, identity in sources.inits.items()}
    return plain_part(recipe.adapt.model_copy(update=inits))


def _prior(prior: Prior, sources: Sources, *, made: bool) -> dict[str, object]:
    """What of `prior` counts: how class images are made only where the base makes them, folders as their contents."""
    words = {**plain_part(prior), "count": prior.generated_count}
    kept = words if made else {key: value for key, value in words.items()
                               if key not in ("count", "steps", "guidance", "images")}
    return {**kept, "pictures": _pictures(sources.class_pictures)} if sources.class_pictures else kept


def _pictures(pictures: Sequence[Picture]) -> list[dict[str, object]]:
    """Pictures as contents with their prompts."""
    return [{"digest": p.digest, "prompt": p.prompt, **({"variants": p.variants} if p.variants else {}),
             **({"dropout": p.dropout} if p.dropout else {}), **({"mask": p.mask} if p.mask else {}),
             **({"repeats": p.repeats} if p.repeats > 1 else {})} for p in pictures]


def plain_part(part: Part) -> dict[str, object]:
    """A part as plain data without its neutral fields, so that a feature that is off leaves no mark."""
    values = {name: getattr(part, name) for name in type(part).model_fields}
    return {name: plain_part(value) if isinstance(value, Part) else value for name, value in values.items()
            if name not in part.NEUTRAL or value != part.NEUTRAL[name]}


def provenance(recipe: Mapping[str, object], instance_prompt: str | Sequence[str] | None,
               inputs: Mapping[str, Artifact], numerics: Numerics, libraries: Sequence[str]) -> dict[str, object]:
    """The document in an exported file's header: equal runs say the same. recipe: what `portable_recipe` gave."""
    from importlib.metadata import version

    minor = {name: ".".join(version(name).split(".")[:2]) for name in libraries}
    return {"format_version": 1, "instance_prompt": instance_prompt, "recipe": dict(recipe),
            "inputs": {name: artifact.digest for name, artifact in sorted(inputs.items())},
            "numerics": {"device": numerics.device, "threads": numerics.threads}, "libraries": minor}
