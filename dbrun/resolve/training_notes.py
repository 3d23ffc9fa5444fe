"""Notes and checks on a training that need its pictures: steps and epochs, held-out pictures, learning rates."""

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
    """Notes on the length of the training and on unusual learning rates.

    Raises InvalidRecipe if the step limits or `train.held_out` do not fit these pictures.
    """
    recipe, train = loaded.recipe, loaded.recipe.train
    problems: list[KeyProblem] = []
    # a recipe in steps was checked when it was read; epochs become steps only with the number of pictures
    if train.epochs is not None:
        problems += check_step_limits(recipe, training_length(recipe, sources).steps)
    if train.held_out is not None and not held_out_indices(recipe, sources):
        problems.append(KeyProblem("train.held_out",
                                   "found a share of the pictures, but there is only one, so none can be held out",
                                   "add pictures, or remove `held_out`"))
    findings = ProblemCollector(loaded.origins)
    for key, message, fix in problems:
        findings.add(key, message, fix)
    findings.raise_if_any()
    notes = [Note("training", describe_length(recipe, sources))]
    steps = training_length(recipe, sources).steps
    # notes, not problems: the results are the same, and a starter recipe is tried out with `train.steps=4`
    if recipe.samples.every is not None and recipe.samples.every > steps:
        text = (f"`samples.every`: found {recipe.samples.every}, but training has only {steps} steps; no previews are "
                "drawn")
        notes.append(Note("training", text, "warning"))
    if "checkpoint_every" in train.model_fields_set and train.checkpoint_every > steps:
        text = (f"`train.checkpoint_every`: found {train.checkpoint_every}, but training has only {steps} steps; "
                "if it is interrupted, it starts again from step 0")
        notes.append(Note("training", text, "warning"))
    rates: dict[str, float | None] = {"train.learning_rate": train.learning_rate}
    for name, adapter in recipe.adapt.adapters.items():
        rates[f"adapt.{name}.learning_rate"] = adapter.learning_rate
    for key, rate in rates.items():
        if rate is None:
            continue
        # the optimizer is given the scaled rate, so that is the one to judge
        warning = train.optimizer.learning_rate_warning(rate * train.learning_rate_scale)
        if warning:
            notes.append(Note("training", f"`{key}`: {warning}", "warning"))
    return tuple(notes)
