"""The length of a training: the arithmetic of pictures, batches, steps and epochs."""

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
    """The length of a training.

    pictures: instance images in an epoch, repeats counted; shape_counts: how many of them have each shape; batch_size:
    instance images in a micro-batch; held_out: number of held-out pictures; images_per_step: the most instance images
    in a step; steps: of the whole training.
    """

    pictures: int
    shape_counts: tuple[int, ...]
    batch_size: int
    held_out: int
    images_per_step: int
    steps: int

    @property
    def steps_per_epoch(self) -> float:
        """Steps in an epoch; not always a whole number, since epochs run on across steps."""
        return _epoch_slots(self.shape_counts, self.batch_size) / self.images_per_step


def _epoch_slots(shapes: tuple[int, ...], batch_size: int) -> int:
    """The rows of an epoch, with those that stay empty. shapes: pictures of each shape."""
    # with one shape every micro-batch is full; with several the last one of each shape may not be, and still counts
    if len(shapes) == 1:
        return shapes[0]
    return batches_per_epoch(shapes, batch_size) * batch_size


def training_length(recipe: Recipe, sources: Sources) -> TrainingLength:
    """The length of a recipe's training. Raises RecipeError where it depends on a base that is not here yet."""
    train, shapes = recipe.train, _shape_counts(recipe, sources)
    steps = train.steps or DEFAULT_STEPS
    if train.epochs is not None:
        slots = train.epochs * _epoch_slots(shapes, train.batch_size)
        # rounded up: the last step may run into a further epoch
        steps = -(-slots // train.images_per_step)
    return TrainingLength(sum(shapes), shapes, train.batch_size, len(held_out_indices(recipe, sources)),
                          train.images_per_step, steps)


def _shape_counts(recipe: Recipe, sources: Sources) -> tuple[int, ...]:
    """The number of pictures of each shape in an epoch. Raises RecipeError where it is needed but not known yet."""
    held = held_out_indices(recipe, sources)
    shown = [(picture, picture.repeats) for number, picture in enumerate(sources.pictures) if number not in held]
    if recipe.images.buckets is None:
        return (sum(repeats for _, repeats in shown),)
    settings = recipe_crop_settings(recipe, sources.base.folder)
    if settings is None and recipe.train.epochs is not None:
        raise RecipeError("the steps of an epoch depend on the buckets, and the buckets on a base that is not here yet",
                          fix="write `images.buckets.step` (64 for Stable Diffusion), or `train.steps`")
    # with `steps` the shapes change no result: where they are not known, all count as one
    counts = Counter[object]()
    for picture, repeats in shown:
        shape = None
        if settings and picture.size:
            shape = nearest_shape(picture.size, settings.shapes)
        counts[shape] += repeats
    return tuple(counts.values())


def describe_length(recipe: Recipe, sources: Sources) -> str:
    """The arithmetic as a line of text: "5 pictures ÷ 2 a batch = 2.5 steps an epoch; 3 epochs = 8 steps"."""
    train, length = recipe.train, training_length(recipe, sources)
    held = f"{_quantity(length.held_out, 'picture')} held out; " if length.held_out else ""
    pictures = _quantity(length.pictures, "picture")
    per_epoch = _quantity(length.steps_per_epoch, "step")

    # what the recipe says stands on the left of the equals sign
    steps = _quantity(length.steps, "step")
    if train.epochs:
        total = f"{_quantity(train.epochs, 'epoch')} = {steps}"
    else:
        epochs = _quantity(length.steps / length.steps_per_epoch, "epoch")
        total = f"{steps} = {epochs}"

    if len(length.shape_counts) > 1:
        micro = _quantity(batches_per_epoch(length.shape_counts, train.batch_size), "micro-batch", "es")
        accumulated = f" ÷ {train.accumulation} accumulated" if train.accumulation > 1 else ""
        division = f" in {len(length.shape_counts)} shapes = {micro} of at most {train.batch_size}{accumulated}"
    elif train.accumulation > 1:
        division = f" ÷ ({train.batch_size} × {train.accumulation} accumulated)"
    else:
        division = f" ÷ {train.batch_size} a batch"
    return f"{held}{pictures}{division} = {per_epoch} an epoch; {total}{_scaled_rate(train)}{_process_share(recipe)}"


def _quantity(number: float, noun: str, plural: str = "s") -> str:
    """A number with its noun: `1 step`, `2.5 steps`. plural: the ending."""
    text = f"{number:.4g}" if number < 1000 else f"{number:.0f}"
    ending = "" if text == "1" else plural
    return f"{text} {noun}{ending}"


def _process_share(recipe: Recipe) -> str:
    """The part about several processes; empty for one."""
    processes = recipe.launch.processes
    if processes == 1:
        return ""
    share = _quantity(recipe.train.accumulation // processes, "micro-batch", "es")
    return f"; {processes} processes, each with {share} a step"


def _scaled_rate(train: Train) -> str:
    """The part about `scale_lr`; empty without it."""
    if not train.scale_lr:
        return ""
    return (f"; learning rate {train.learning_rate:g} × {train.accumulation} × {train.batch_size} = "
            f"{train.learning_rate * train.learning_rate_scale:g}")
