"""How long does a training go on? The arithmetic of pictures, batches, steps and epochs."""

from __future__ import annotations

from dataclasses import dataclass

from dbrun.recipe.model import Recipe
from dbrun.recipe.train import STEPS, Train
from dbrun.stages.base import Sources


@dataclass(frozen=True)
class Length:
    """pictures: instance images that are trained on, repeats counted; per_step: how many a step shows."""

    pictures: int
    per_step: int
    steps: int

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every picture is shown once; epochs run on across steps, so it need be no whole number."""
        return self.pictures / self.per_step


def length(recipe: Recipe, sources: Sources) -> Length:
    """How long this recipe trains on these pictures."""
    train, pictures = recipe.train, len(sources.pictures)
    steps = train.steps or STEPS
    if train.epochs is not None:
        steps = -(-train.epochs * pictures // train.images_per_step)
    return Length(pictures, train.images_per_step, steps)


def told(recipe: Recipe, sources: Sources) -> str:
    """The arithmetic in words."""
    train, found = recipe.train, length(recipe, sources)
    epochs = f"{found.steps / found.steps_per_epoch:.4g} epochs"
    whole = f"{train.epochs} epochs = {found.steps} steps" if train.epochs else f"{found.steps} steps = {epochs}"
    return (f"{_count(found.pictures, 'picture')} ÷ ({train.batch_size} × {train.accumulation} accumulated) = "
            f"{_count(found.steps_per_epoch, 'step')} an epoch; {whole}{_rates(train)}")


def _count(number: float, noun: str) -> str:
    return f"{number:.4g} {noun}{'' if number == 1 else 's'}"


def _rates(train: Train) -> str:
    if not train.scale_lr:
        return ""
    return (f"; learning rate {train.learning_rate:g} × {train.accumulation} × {train.batch_size} = "
            f"{train.learning_rate * train.rate_factor:g}")
