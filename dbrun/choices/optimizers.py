"""How gradients become updates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from dbrun.parts import Float, Part, subclasses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

    Group = dict[str, Any]
    """Parameters that share a learning rate: {"params": [...], "lr": 1e-4}."""


class OptimizerChoice(Part):
    """An optimizer and its settings; the learning rates stand in `train` and `adapt`."""

    NAME: ClassVar[str]

    def build(self, groups: Sequence[Group], learning_rate: float) -> Optimizer:
        """The optimizer over these groups of parameters; learning_rate: of a group without one of its own."""
        raise NotImplementedError


class AdamW(OptimizerChoice):
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101)."""

    NAME: ClassVar[str] = "adamw"

    type: Literal["adamw"] = "adamw"
    """The optimizer."""
    beta1: Annotated[Float, Field(ge=0, lt=1)] = 0.9
    """Decay of the running mean of gradients."""
    beta2: Annotated[Float, Field(ge=0, lt=1)] = 0.999
    """Decay of the running mean of squared gradients."""
    weight_decay: Annotated[Float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    epsilon: Annotated[Float, Field(gt=0)] = 1e-8
    """Added to the denominator."""

    def build(self, groups: Sequence[Group], learning_rate: float) -> Optimizer:
        """torch's AdamW."""
        import torch

        return torch.optim.AdamW(groups, lr=learning_rate, betas=(self.beta1, self.beta2),
                                 weight_decay=self.weight_decay, eps=self.epsilon)


def types() -> tuple[type[OptimizerChoice], ...]:
    """Every optimizer."""
    return subclasses("dbrun.choices", OptimizerChoice)
