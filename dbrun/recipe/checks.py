"""What must agree across keys, as far as the recipe alone can tell."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dbrun.recipe.model import Recipe

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
Finding = tuple[str, str, str | None]


def check(recipe: Recipe) -> list[Finding]:
    """Every disagreement as (dotted key, message, fix)."""
    return [finding for one in (_prior, _base, _precision, _export, _stop) for finding in one(recipe)]


def _prior(recipe: Recipe) -> Iterator[Finding]:
    if recipe.prior is not None and recipe.subject.class_prompt is None:
        yield ("subject.class_prompt", "missing, needed by `prior`: the class images are made from it",
               "add `class_prompt: a photo of a dog` under `subject`, or take `prior` away")
    prompts = len(recipe.subject.class_prompts)
    if recipe.prior is not None and recipe.prior.count < prompts:
        yield ("prior.count", f"found {recipe.prior.count}, but `subject.class_prompt` has {prompts} prompts: "
               "some would be shown by no class image", f"write `count: {prompts}` or more")


def _base(recipe: Recipe) -> Iterator[Finding]:
    if recipe.base.revision is not None and not HUB_ID.fullmatch(recipe.base.path):
        yield ("base.revision", f"found a revision, but '{recipe.base.path}' is no Hub id such as owner/name",
               "take `revision` away, or write `revision: null` over an inherited one")


def _precision(recipe: Recipe) -> Iterator[Finding]:
    if recipe.train.precision == "fp16" and recipe.device == "cpu":
        yield ("train.precision", "found 'fp16', allowed with `device: cpu`: fp32 or bf16",
               "write `precision: bf16`, or leave `device` out")


def _export(recipe: Recipe) -> Iterator[Finding]:
    for index, name in enumerate(recipe.export):
        if name in recipe.export[:index]:
            yield f"export.{index}", f"found '{name}' twice", "name each format once"


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
