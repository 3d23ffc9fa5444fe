"""How long does a training go on? The arithmetic of pictures, batches, steps and epochs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dbrun.errors import RecipeError
from dbrun.images.buckets import nearest, per_epoch
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.train import STEPS, Train
from dbrun.stages.base import Sources
from dbrun.stages.support.crops import cutting_of
from dbrun.stages.support.held_out import held_out


@dataclass(frozen=True)
class Length:
    """pictures: instance images that an epoch shows, repeats counted; shapes: how many of each shape.

    held: how many no epoch shows; per_step: pictures that a step shows at most, in micro-batches of batch_size;
    steps: of the whole training.
    """

    pictures: int
    shapes: tuple[int, ...]
    batch_size: int
    held: int
    per_step: int
    steps: int

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every picture is shown; epochs run on across steps, so it need be no whole number."""
        return _rest(self.shapes, self.batch_size) / self.per_step


def _rest(shapes: tuple[int, ...], batch_size: int) -> int:
    """Places in the micro-batches of an epoch; of several shapes each ends a micro-batch, which may not be full."""
    return shapes[0] if len(shapes) == 1 else per_epoch(shapes, batch_size) * batch_size


def length(recipe: Recipe, sources: Sources) -> Length:
    """How long this recipe trains on these pictures."""
    train, shapes = recipe.train, _shapes(recipe, sources)
    steps = train.steps or STEPS
    if train.epochs is not None:
        steps = -(-train.epochs * _rest(shapes, train.batch_size) // train.images_per_step)
    return Length(sum(shapes), shapes, train.batch_size, len(held_out(recipe, sources)), train.images_per_step, steps)


def _shapes(recipe: Recipe, sources: Sources) -> tuple[int, ...]:
    """How many pictures an epoch shows of each shape. Raises RecipeError where that cannot be told yet."""
    held = held_out(recipe, sources)
    shown = [(picture, picture.repeats) for number, picture in enumerate(sources.pictures) if number not in held]
    if recipe.images.buckets is None:
        return (sum(repeats for _, repeats in shown),)
    cut = cutting_of(recipe, sources.base.folder)
    if cut is None and recipe.train.epochs is not None:
        raise RecipeError("the steps of an epoch depend on the buckets, and these on a base that is not here yet",
                          fix="write `images.buckets.step` (64 for Stable Diffusion), or `train.steps`")
    counts = Counter[object]()
    for picture, repeats in shown:
        counts[nearest(picture.size, cut.shapes) if cut and picture.size else None] += repeats
    return tuple(counts.values())


def told(recipe: Recipe, sources: Sources) -> str:
    """The arithmetic in words."""
    train, found = recipe.train, length(recipe, sources)
    epochs = _count(found.steps / found.steps_per_epoch, "epoch")
    steps = _count(found.steps, "step")
    whole = f"{_count(train.epochs, 'epoch')} = {steps}" if train.epochs else f"{steps} = {epochs}"
    held = f"{_count(found.held, 'picture')} held out; " if found.held else ""
    if len(found.shapes) > 1:
        micro = per_epoch(found.shapes, train.batch_size)
        return (f"{held}{_count(found.pictures, 'picture')} in {len(found.shapes)} shapes = "
                f"{_count(micro, 'micro-batch', 'es')} of at most {train.batch_size}"
                f"{f' ÷ {train.accumulation} accumulated' if train.accumulation > 1 else ''} = "
                f"{_count(found.steps_per_epoch, 'step')} an epoch; {whole}{_rates(train)}{_dealt(recipe)}")
    step = f"{train.batch_size} a batch" if train.accumulation == 1 else (
        f"({train.batch_size} × {train.accumulation} accumulated)")
    return (f"{held}{_count(found.pictures, 'picture')} ÷ {step} = "
            f"{_count(found.steps_per_epoch, 'step')} an epoch; {whole}{_rates(train)}{_dealt(recipe)}")


def _count(number: float, noun: str, plural: str = "s") -> str:
    told = f"{number:.4g}" if number < 1000 else f"{number:.0f}"
    return f"{told} {noun}{'' if told == '1' else plural}"


def _dealt(recipe: Recipe) -> str:
    processes = recipe.launch.processes
    if processes == 1:
        return ""
    share = _count(recipe.train.accumulation // processes, "micro-batch", "es")
    return f"; {processes} processes, each with {share} a step"


def _rates(train: Train) -> str:
    if not train.scale_lr:
        return ""
    return (f"; learning rate {train.learning_rate:g} × {train.accumulation} × {train.batch_size} = "
            f"{train.learning_rate * train.rate_factor:g}")
