"""How gradients become updates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Float, Part, subclasses
from dbrun.options.packages import OptionalPackage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

    ParamGroupDict = dict[str, Any]
    """Parameters that share a learning rate: {"params": [...], "lr": 1e-4}."""


class OptimizerOptions(Part):
    """An optimizer and its settings; the learning rates stand in `train` and `adapt`.

    REQUIRED_PACKAGE: what it needs beside dbrun's own dependencies. HAS_EVAL_WEIGHTS: whether it trains on other
    weights than those that are to be used. SINGLE_RATE_REASON: why every component must learn at the same rate, where
    it must. STATES_PER_WEIGHT: how many it keeps at most for each weight that learns.
    USUAL_RATES: the least and the largest learning rate that people use.
    """

    NAME: ClassVar[str]
    REQUIRED_PACKAGE: ClassVar[OptionalPackage | None] = None
    HAS_EVAL_WEIGHTS: ClassVar[bool] = False
    SINGLE_RATE_REASON: ClassVar[str | None] = None
    STATES_PER_WEIGHT: ClassVar[int] = 2
    USUAL_RATES: ClassVar[tuple[float, float]] = (1e-7, 2e-2)

    def build(self, groups: Sequence[ParamGroupDict], learning_rate: float) -> Optimizer:
        """The optimizer over these groups of parameters; learning_rate: of a group without one of its own."""
        raise NotImplementedError

    def learning_rate_warning(self, learning_rate: float) -> str | None:
        """What is odd about this learning rate for this optimizer, if anything."""
        least, most = self.USUAL_RATES
        if least <= learning_rate <= most:
            return None
        end = "hardly anything is learnt" if learning_rate < least else "the training breaks down"
        return f"{learning_rate:g} is unusual with {self.NAME}, where {least:g} to {most:g} is: mostly {end}"

    @contextmanager
    def eval_weights(self, optimizer: Optimizer) -> Iterator[None]:
        """While this is open the parameters are those to be used; then again, to the bit, those to be trained on."""
        yield


class AdamLike(OptimizerOptions):
    """What AdamW and its relatives are set by."""

    beta1: Annotated[Float, Field(ge=0, lt=1)] = 0.9
    """Decay of the running mean of gradients."""
    beta2: Annotated[Float, Field(ge=0, lt=1)] = 0.999
    """Decay of the running mean of squared gradients."""
    weight_decay: Annotated[Float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    epsilon: Annotated[Float, Field(gt=0)] = 1e-8
    """Added to the denominator."""

    @property
    def adam_arguments(self) -> dict[str, Any]:
        """The settings under torch's names."""
        return {"betas": (self.beta1, self.beta2), "weight_decay": self.weight_decay, "eps": self.epsilon}


class AdamW(AdamLike):
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101)."""

    NAME: ClassVar[str] = "adamw"
    type: Literal["adamw"] = "adamw"
    """The optimizer."""

    def build(self, groups: Sequence[ParamGroupDict], learning_rate: float) -> Optimizer:
        """torch's AdamW; on a GPU the one that updates all parameters in one kernel."""
        import torch

        fused = all(p.device.type == "cuda" for group in groups for p in group["params"])
        return torch.optim.AdamW(groups, lr=learning_rate, fused=True if fused else None, **self.adam_arguments)


def optimizer_types() -> tuple[type[OptimizerOptions], ...]:
    """Every optimizer."""
    return subclasses("dbrun.options", OptimizerOptions)
