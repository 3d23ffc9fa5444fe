"""How long does a training go on? The arithmetic of pictures, batches, steps and epochs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dbrun.errors import RecipeError
from dbrun.images.buckets import batches_per_epoch, nearest_shape
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.train import DEFAULT_STEPS, Train
from dbrun.stages.sources import Sources
from dbrun.stages.support.crops import recipe_crop_settings
from dbrun.stages.support.held_out import held_out_indices


@dataclass(frozen=True)
class TrainingLength:
    """pictures: instance images that an epoch shows, repeats counted; shape_counts: how many of each shape.

    held_out: how many no epoch shows; images_per_step: pictures that a step shows at most, in micro-batches of
    batch_size;
    steps: of the whole training.
    """

    pictures: int
    shape_counts: tuple[int, ...]
    batch_size: int
    held_out: int
    images_per_step: int
    steps: int

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every picture is shown; epochs run on across steps, so it need be no whole number."""
        return _epoch_slots(self.shape_counts, self.batch_size) / self.images_per_step


def _epoch_slots(shapes: tuple[int, ...], batch_size: int) -> int:
    """Places in the micro-batches of an epoch; of several shapes each ends a micro-batch, which may not be full."""
    return shapes[0] if len(shapes) == 1 else batches_per_epoch(shapes, batch_size) * batch_size


def training_length(recipe: Recipe, sources: Sources) -> TrainingLength:
    """How long this recipe trains on these pictures."""
    train, shapes = recipe.train, _shape_counts(recipe, sources)
    steps = train.steps or DEFAULT_STEPS
    if train.epochs is not None:
        steps = -(-train.epochs * _epoch_slots(shapes, train.batch_size) // train.images_per_step)
    return TrainingLength(sum(shapes), shapes, train.batch_size, len(held_out_indices(recipe, sources)),
                          train.images_per_step, steps)


def _shape_counts(recipe: Recipe, sources: Sources) -> tuple[int, ...]:
    """How many pictures an epoch shows of each shape. Raises RecipeError where that cannot be told yet."""
    held = held_out_indices(recipe, sources)
    shown = [(picture, picture.repeats) for number, picture in enumerate(sources.pictures) if number not in held]
    if recipe.images.buckets is None:
        return (sum(repeats for _, repeats in shown),)
    cut = recipe_crop_settings(recipe, sources.base.folder)
    if cut is None and recipe.train.epochs is not None:
        raise RecipeError("the steps of an epoch depend on the buckets, and these on a base that is not here yet",
                          fix="write `images.buckets.step` (64 for Stable Diffusion), or `train.steps`")
    counts = Counter[object]()
    for picture, repeats in shown:
        counts[nearest_shape(picture.size, cut.shapes) if cut and picture.size else None] += repeats
    return tuple(counts.values())


def describe_length(recipe: Recipe, sources: Sources) -> str:
    """The arithmetic in words."""
    train, found = recipe.train, training_length(recipe, sources)
    epochs = _quantity(found.steps / found.steps_per_epoch, "epoch")
    steps = _quantity(found.steps, "step")
    whole = f"{_quantity(train.epochs, 'epoch')} = {steps}" if train.epochs else f"{steps} = {epochs}"
    held = f"{_quantity(found.held_out, 'picture')} held out; " if found.held_out else ""
    if len(found.shape_counts) > 1:
        micro = batches_per_epoch(found.shape_counts, train.batch_size)
        return (f"{held}{_quantity(found.pictures, 'picture')} in {len(found.shape_counts)} shapes = "
                f"{_quantity(micro, 'micro-batch', 'es')} of at most {train.batch_size}"
                f"{f' ÷ {train.accumulation} accumulated' if train.accumulation > 1 else ''} = "
                f"{_quantity(found.steps_per_epoch, 'step')} an epoch; {whole}{_scaled_rate(train)}"
                f"{_process_share(recipe)}")
    step = f"{train.batch_size} a batch" if train.accumulation == 1 else (
        f"({train.batch_size} × {train.accumulation} accumulated)")
    return (f"{held}{_quantity(found.pictures, 'picture')} ÷ {step} = "
            f"{_quantity(found.steps_per_epoch, 'step')} an epoch; {whole}{_scaled_rate(train)}"
            f"{_process_share(recipe)}")


def _quantity(number: float, noun: str, plural: str = "s") -> str:
    told = f"{number:.4g}" if number < 1000 else f"{number:.0f}"
    return f"{told} {noun}{'' if told == '1' else plural}"


def _process_share(recipe: Recipe) -> str:
    processes = recipe.launch.processes
    if processes == 1:
        return ""
    share = _quantity(recipe.train.accumulation // processes, "micro-batch", "es")
    return f"; {processes} processes, each with {share} a step"


def _scaled_rate(train: Train) -> str:
    if not train.scale_lr:
        return ""
    return (f"; learning rate {train.learning_rate:g} × {train.accumulation} × {train.batch_size} = "
            f"{train.learning_rate * train.learning_rate_scale:g}")
