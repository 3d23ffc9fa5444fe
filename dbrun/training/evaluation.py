"""How well does training go on pictures that it does not see, and when is it no use to go on?"""

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
    """What a step is remembered by."""

    @property
    def step(self) -> int:
        """Counted from 1."""

    @property
    def held_out_loss(self) -> float | None:
        """The loss of a look after this step, if there was one."""


@dataclass
class HeldOutEvaluator:
    """Looks at the held-out pictures. batches: one for each of them, the same at every look.

    prompt_encoder: of their prompts, which must not be those of training: where averaged weights are looked at, an
    encoded prompt that was kept would come back in training.
    best_states: component -> state of the best look, kept only where training may end for want of a better one.
    """

    choice: HeldOut
    batches: Sequence[Batch]
    prompt_encoder: PromptEncoder
    best_states: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def is_due(self, step: int) -> bool:
        """Whether there is a look after this step. Not after the last as such: a longer training has none there."""
        return step % self.choice.every == 0

    def mean_loss(self, loss: Callable[[Batch, PromptEncoder], Tensor]) -> float:
        """The mean of what `loss` gives for each picture."""
        return float(torch.stack([loss(batch, self.prompt_encoder).float() for batch in self.batches]).mean())

    def keep_best(self, history: Sequence[StepRecord],
                  states: Callable[[], Mapping[str, Mapping[str, Tensor]]]) -> None:
        """Keep the states if the look after the last step was the best so far."""
        if self.choice.patience is not None and best_step(history) == history[-1].step:
            self.best_states = {component: dict(state) for component, state in states().items()}

    def should_stop(self, history: Sequence[StepRecord]) -> bool:
        """Whether the loss has not fallen for so long that training ends."""
        patience = self.choice.patience
        if patience is None or not history or not self.is_due(history[-1].step):
            return False
        return (history[-1].step - (best_step(history) or 0)) // self.choice.every >= patience

    def tensors(self) -> dict[str, Tensor]:
        """`best/<component>/<name>` -> what was kept."""
        return {f"{PREFIX}{component}/{name}": t for component, state in self.best_states.items()
                for name, t in state.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `tensors` gave."""
        for key, tensor in tensors.items():
            if key.startswith(PREFIX):
                component, name = key.removeprefix(PREFIX).split("/", 1)
                self.best_states.setdefault(component, {})[name] = tensor


def best_step(history: Iterable[StepRecord]) -> int | None:
    """The first step after which the held-out loss was least; None where no look gave a number yet."""
    looks = [(row.held_out_loss, row.step) for row in history
             if row.held_out_loss is not None and math.isfinite(row.held_out_loss)]
    return min(looks)[1] if looks else None


def without_held_out(halves: Sequence[PictureSet], held: frozenset[int]) -> Sequence[PictureSet]:
    """The same halves, in whose epochs no held-out picture stands. held: numbers of instance pictures."""
    if not held:
        return halves
    pictures = halves[0].pictures
    # crops name what is shown: a class half that shows instance pictures has their crops
    hidden = {pictures[number].crops for number in held}
    return [_without(half, hidden) for half in halves]


def _without(half: PictureSet, hidden: set[tuple[str, ...]]) -> PictureSet:
    pictures: list[StoredPicture] = []
    for picture in half.pictures:
        pictures.append(replace(picture, repeats=0) if picture.crops in hidden else picture)
    return replace(half, pictures=pictures)
