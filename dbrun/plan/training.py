"""What is to be said of a training once its pictures are known?"""

from __future__ import annotations

from dbrun.events import Note
from dbrun.recipe.checks import stops
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.places import Problem, Problems
from dbrun.stages.base import Sources
from dbrun.stages.length import length, told


def training_notes(loaded: LoadedRecipe, sources: Sources) -> tuple[Note, ...]:
    """The arithmetic of steps and epochs, and what is odd. Raises Problems where a stop lies beyond the epochs."""
    recipe, train = loaded.recipe, loaded.recipe.train
    if train.epochs is not None and (found := list(stops(recipe, length(recipe, sources).steps))):
        raise Problems([Problem(loaded.origins.get(key), key, message, fix) for key, message, fix in found])
    notes = [Note("training", told(recipe, sources))]
    if odd := train.optimizer.remark(train.learning_rate * train.rate_factor):
        notes.append(Note("training", odd, "warning"))
    return tuple(notes)
