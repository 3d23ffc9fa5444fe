"""Parameter groups: the parameters of one component, their learning rate, and the step at which they stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from dbrun.errors import StageFailed
from dbrun.models.base import Model
from dbrun.training.settings import TrainParams


@dataclass(frozen=True)
class ParamGroup:
    """The parameters of one component that is trained.

    learning_rate: its peak; stop: the number of steps that it trains, None for all.
    """

    component: str
    module: nn.Module
    learning_rate: float
    stop: int | None

    @cached_property
    def parameters(self) -> Sequence[nn.Parameter]:
        """The trainable parameters in the module's order, fixed at the first call: `begin_step` freezes them later."""
        return [p for p in self.module.parameters() if p.requires_grad]

    def begin_step(self, step: int) -> None:
        """Prepare the step with this number, counted from 0: freeze the component if its stop is reached."""
        if self.is_training(step):
            return
        # a parameter without a gradient is skipped by the optimizer, moments and weight decay included; eval mode
        # turns its dropout off
        self.module.eval()
        for parameter in self.parameters:
            parameter.requires_grad_(False)
            parameter.grad = None

    def check_gradient(self, step: int) -> None:
        """Raise StageFailed where the component trains in this step, but no gradient reached it."""
        if self.is_training(step) and all(p.grad is None for p in self.parameters):
            raise StageFailed(f"{self.component} learns, but the prediction does not depend on it",
                              fix=f"remove `adapt.{self.component}`, or give it other `targets`")

    def is_training(self, step: int) -> bool:
        """Whether the component trains in this step, counted from 0."""
        return self.stop is None or step < self.stop


def make_param_groups(modules: Mapping[str, nn.Module], settings: TrainParams) -> tuple[ParamGroup, ...]:
    """A parameter group for each component. modules: component -> module, which is put in training mode."""
    groups: list[ParamGroup] = []
    for name, module in modules.items():
        learning_rate = settings.learning_rates.get(name, settings.learning_rate)
        groups.append(ParamGroup(name, module.train(), learning_rate, settings.stops.get(name)))
    return tuple(groups)


@contextmanager
def eval_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Context manager: no dropout and no gradients in these modules; restore the mode of every submodule on exit."""
    # only those in training mode: `module.eval()` would lose which were not
    in_training = [part for module in modules for part in module.modules() if part.training]
    _set_training(in_training, False)
    try:
        with torch.no_grad():
            yield
    finally:
        _set_training(in_training, True)


def _set_training(modules: Iterable[nn.Module], training: bool) -> None:
    """Set the mode of each of these modules, but not of their submodules."""
    for module in modules:
        # past nn.Module.__setattr__, whose bookkeeping of parameters took most of the time
        object.__setattr__(module, "training", training)


def trains_text_encoders(model: Model) -> bool:
    """Whether a text encoder or a new word vector is training now, so that encoded prompts change from step to step."""
    encoders = [module for component, module in model.loaded_modules().items() if component != "denoiser"]
    return any(p.requires_grad for encoder in encoders for p in encoder.parameters())
