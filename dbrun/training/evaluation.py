"""How well does training go on pictures that it does not see, and when is it no use to go on?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from dbrun.options.held_out import HeldOut
from dbrun.training.batches import Batch, Pictures
from dbrun.training.prompt_embeds import Conditions

PREFIX = "best/"


class Looked(Protocol):
    """What a step is remembered by."""

    @property
    def step(self) -> int:
        """Counted from 1."""

    @property
    def held_out_loss(self) -> float | None:
        """The loss of a look after this step, if there was one."""


@dataclass
class Watch:
    """Looks at the held-out pictures. batches: one for each of them, the same at every look.

    conditions: of their prompts, which must not be those of training: where averaged weights are looked at, an encoded
    prompt that was kept would come back in training.
    best: component -> state of the best look, kept only where training may end for want of a better one.
    """

    choice: HeldOut
    batches: Sequence[Batch]
    conditions: Conditions
    best: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def due(self, step: int) -> bool:
        """Whether there is a look after this step. Not after the last as such: a longer training has none there."""
        return step % self.choice.every == 0

    def look(self, loss: Callable[[Batch, Conditions], Tensor]) -> float:
        """The mean of what `loss` gives for each picture."""
        return float(torch.stack([loss(batch, self.conditions).float() for batch in self.batches]).mean())

    def take(self, history: Sequence[Looked], states: Callable[[], Mapping[str, Mapping[str, Tensor]]]) -> None:
        """Keep the states if the look after the last step was the best so far."""
        if self.choice.patience is not None and best_step(history) == history[-1].step:
            self.best = {component: dict(state) for component, state in states().items()}

    def ends(self, history: Sequence[Looked]) -> bool:
        """Whether the loss has not fallen for so long that training ends."""
        patience = self.choice.patience
        if patience is None or not history or not self.due(history[-1].step):
            return False
        return (history[-1].step - (best_step(history) or 0)) // self.choice.every >= patience

    def tensors(self) -> dict[str, Tensor]:
        """`best/<component>/<name>` -> what was kept."""
        return {f"{PREFIX}{component}/{name}": t for component, state in self.best.items() for name, t in state.items()}

    def put_back(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `tensors` gave."""
        for key, tensor in tensors.items():
            if key.startswith(PREFIX):
                component, name = key.removeprefix(PREFIX).split("/", 1)
                self.best.setdefault(component, {})[name] = tensor


def best_step(history: Iterable[Looked]) -> int | None:
    """The first step after which the held-out loss was least; None where no look gave a number yet."""
    looks = [(row.held_out_loss, row.step) for row in history
             if row.held_out_loss is not None and math.isfinite(row.held_out_loss)]
    return min(looks)[1] if looks else None


def withheld(halves: Sequence[Pictures], held: frozenset[int], shows: Sequence[int] | None) -> Sequence[Pictures]:
    """The same halves, in whose epochs no held-out picture stands.

    shows: the instance picture that each row of the class half shows, None where it has pictures of its own.
    """
    if not held:
        return halves
    instance, *classes = halves
    return [_without(instance, held, range(len(instance.prompts))),
            *(half if shows is None else _without(half, held, shows) for half in classes)]


def _without(half: Pictures, held: frozenset[int], shows: Sequence[int]) -> Pictures:
    often = half.repeats or [1] * len(half.prompts)
    return replace(half, repeats=[0 if shown in held else n for shown, n in zip(shows, often, strict=True)])
