"""Held-out evaluation: the loss on pictures that are not trained on, and early stopping by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from dbrun.images.manifest import StoredPicture
from dbrun.options.held_out import HeldOut
from dbrun.training.batches import Batch, PictureSet
from dbrun.training.prompt_embeds import PromptEncoder

PREFIX = "best/"


class StepRecord(Protocol):
    """The part of a step's metrics that early stopping reads."""

    @property
    def step(self) -> int:
        """The number of the step, counted from 1."""

    @property
    def held_out_loss(self) -> float | None:
        """The held-out loss after this step; None where it was not evaluated."""


@dataclass
class HeldOutEvaluator:
    """The held-out evaluation of a training.

    choice: the recipe's `train.held_out`. batches: one for each held-out picture, the same at every evaluation.
    prompt_encoder: encodes their prompts; it must not be the training's: under averaged weights a prompt that it kept
    would come back in training. best_states: component -> adapter state dict of the evaluation with the smallest loss;
    empty without `patience`.
    """

    choice: HeldOut
    batches: Sequence[Batch]
    prompt_encoder: PromptEncoder
    best_states: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def is_due(self, step: int) -> bool:
        """Whether to evaluate after this step, counted from 1.

        The last step is no exception: a longer training would not evaluate there, and must give the same history.
        """
        return step % self.choice.every == 0

    def mean_loss(self, loss: Callable[[Batch, PromptEncoder], Tensor]) -> float:
        """The mean of `loss` (a scalar) over the held-out pictures."""
        losses = [loss(batch, self.prompt_encoder).float() for batch in self.batches]
        return float(torch.stack(losses).mean())

    def keep_best(self, history: Sequence[StepRecord],
                  states: Callable[[], Mapping[str, Mapping[str, Tensor]]]) -> None:
        """Keep the adapter states if the last evaluation has the smallest loss so far.

        states: component -> weights such as A [rank, in]; called only where it is needed, since it copies them all.
        """
        if self.choice.patience is not None and best_step(history) == history[-1].step:
            self.best_states = {component: dict(state) for component, state in states().items()}

    def should_stop(self, history: Sequence[StepRecord]) -> bool:
        """Whether to stop early: the loss has not fallen for `patience` evaluations."""
        patience = self.choice.patience
        if patience is None or not history or not self.is_due(history[-1].step):
            return False
        # where no loss was finite yet, evaluations count from the start
        steps_since_best = history[-1].step - (best_step(history) or 0)
        return steps_since_best // self.choice.every >= patience

    def tensors(self) -> dict[str, Tensor]:
        """The best states for a checkpoint: `best/<component>/<name>` -> weight, such as A [rank, in]."""
        named: dict[str, Tensor] = {}
        for component, state in self.best_states.items():
            for name, tensor in state.items():
                named[f"{PREFIX}{component}/{name}"] = tensor
        return named

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the best states, weights such as A [rank, in], from a checkpoint's tensors, named as in `tensors`."""
        for key, tensor in tensors.items():
            if key.startswith(PREFIX):
                component, name = key.removeprefix(PREFIX).split("/", 1)
                self.best_states.setdefault(component, {})[name] = tensor


def best_step(history: Iterable[StepRecord]) -> int | None:
    """The step with the smallest held-out loss, the earliest of equal ones; None where no loss is finite yet."""
    evaluations: list[tuple[float, int]] = []
    for row in history:
        if row.held_out_loss is not None and math.isfinite(row.held_out_loss):
            evaluations.append((row.held_out_loss, row.step))
    if not evaluations:
        return None
    _, step = min(evaluations)
    return step


def without_held_out(halves: Sequence[PictureSet], held: frozenset[int]) -> Sequence[PictureSet]:
    """The halves without the held-out pictures in their epochs. held: numbers of instance pictures."""
    if not held:
        return halves
    pictures = halves[0].pictures
    # compared by crops, not by number: a class half that shows the instance pictures numbers them otherwise
    hidden = {pictures[number].crops for number in held}
    return [_without(half, hidden) for half in halves]


def _without(half: PictureSet, hidden: set[tuple[str, ...]]) -> PictureSet:
    """The half with 0 repeats of the pictures with these crops; they stay in the list, so that numbers stay valid."""
    pictures: list[StoredPicture] = []
    for picture in half.pictures:
        if picture.crops in hidden:
            picture = replace(picture, repeats=0)
        pictures.append(picture)
    return replace(half, pictures=pictures)
