"""What is to be said of a training once its pictures are known?"""

from __future__ import annotations

from dbrun.errors import KeyProblem
from dbrun.events import Note
from dbrun.recipe.checks.rules import check_step_limits
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.text.spans import ProblemCollector
from dbrun.stages.sources import Sources
from dbrun.stages.support.held_out import held_out_indices
from dbrun.stages.support.training_length import describe_length, training_length


def training_notes(loaded: LoadedRecipe, sources: Sources) -> tuple[Note, ...]:
    """The arithmetic of steps and epochs, and what is odd.
    Raises InvalidRecipe for what does not go with these pictures."""
    recipe, train = loaded.recipe, loaded.recipe.train
    found = [] if train.epochs is None else list(check_step_limits(recipe, training_length(recipe, sources).steps))
    if train.held_out is not None and not held_out_indices(recipe, sources):
        found.append(KeyProblem("train.held_out",
                                "found a share of the pictures, but of one alone none can be held out",
                                "add pictures, or take `held_out` away"))
    findings = ProblemCollector(loaded.origins)
    for key, message, fix in found:
        findings.add(key, message, fix)
    findings.raise_if_any()
    notes = [Note("training", describe_length(recipe, sources))]
    own = {f"adapt.{name}.learning_rate": adapter.learning_rate for name, adapter in recipe.adapt.adapters.items()}
    for key, rate in {"train.learning_rate": train.learning_rate, **own}.items():
        if rate is not None and (odd := train.optimizer.learning_rate_warning(rate * train.learning_rate_scale)):
            notes.append(Note("training", f"`{key}`: {odd}", "warning"))
    return tuple(notes)
