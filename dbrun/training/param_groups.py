"""Which component learns at which step, and at which rate?"""

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
    """A component that learns. rate: its peak learning rate; stop: steps after which it is left as it is, or None."""

    component: str
    module: nn.Module
    learning_rate: float
    stop: int | None

    @cached_property
    def parameters(self) -> Sequence[nn.Parameter]:
        """What was trainable when this was first asked, in the module's order."""
        return [p for p in self.module.parameters() if p.requires_grad]

    def begin_step(self, step: int) -> None:
        """Make ready for the step of this number, counted from 0.

        After its stop a component is at rest: without gradients the optimizer passes it over, so that neither its
        weights nor their moments change, and no dropout makes its answers differ.
        """
        if self.is_training(step):
            return
        self.module.eval()
        for parameter in self.parameters:
            parameter.requires_grad_(False)
            parameter.grad = None

    def check_gradient(self, step: int) -> None:
        """Raise StageFailed where the component should have learnt from this step, but no gradient reached it."""
        if self.is_training(step) and all(p.grad is None for p in self.parameters):
            raise StageFailed(f"{self.component} learns, but the prediction does not depend on it",
                              fix=f"take `adapt.{self.component}` away, or give it other `targets`")

    def is_training(self, step: int) -> bool:
        """Whether the component learns in this step, counted from 0."""
        return self.stop is None or step < self.stop


def make_param_groups(modules: Mapping[str, nn.Module], settings: TrainParams) -> tuple[ParamGroup, ...]:
    """A group for each component's module, in training mode, with the learning rate and the stop that it has."""
    common = settings.learning_rate
    return tuple(ParamGroup(name, module.train(), settings.learning_rates.get(name, common), settings.stops.get(name))
                 for name, module in modules.items())


@contextmanager
def eval_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While this is open there is no dropout and no gradient; then all modules are in the modes that they were in."""
    awake = [part for module in modules for part in module.modules() if part.training]
    _set_training(awake, False)
    try:
        with torch.no_grad():
            yield
    finally:
        _set_training(awake, True)


def _set_training(modules: Iterable[nn.Module], training: bool) -> None:
    for module in modules:
        # past what a module does at an assignment to keep track of weights, which took most of the time
        object.__setattr__(module, "training", training)


def trains_text_encoders(model: Model) -> bool:
    """Whether anything that prompts go through on their way to the denoiser is learning now."""
    encoders = [model.module(component) for component in (*model.family.components, *model.family.token_components)
                if component != "denoiser"]
    return any(p.requires_grad for encoder in encoders for p in encoder.parameters())
