"""Optimizers: the options that all share, AdamW, and the lookup of those in the files beside this one."""

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
    """An optimizer and its settings; the learning rates are set in `train` and `adapt`.

    REQUIRED_PACKAGE: a package beyond dbrun's own dependencies, if any. HAS_EVAL_WEIGHTS: whether the weights to export
    differ from the weights that are trained. SINGLE_RATE_REASON: why all components must have one learning rate; None
    where they may differ. STATES_PER_WEIGHT: largest number of state values per trained weight, for memory estimates.
    USUAL_RATES: smallest and largest learning rate in common use. ELEMENTWISE: whether the update of a weight depends
    on nothing but its own gradients, so that many parameters may be updated as one.
    """

    NAME: ClassVar[str]
    REQUIRED_PACKAGE: ClassVar[OptionalPackage | None] = None
    HAS_EVAL_WEIGHTS: ClassVar[bool] = False
    SINGLE_RATE_REASON: ClassVar[str | None] = None
    STATES_PER_WEIGHT: ClassVar[int] = 2
    USUAL_RATES: ClassVar[tuple[float, float]] = (1e-7, 2e-2)
    ELEMENTWISE: ClassVar[bool] = False

    def build(self, groups: Sequence[ParamGroupDict], learning_rate: float) -> Optimizer:
        """The optimizer over these parameter groups; learning_rate: for a group that names none."""
        raise NotImplementedError

    def learning_rate_warning(self, learning_rate: float) -> str | None:
        """Warning about a learning rate outside this optimizer's usual range; None inside it."""
        least, most = self.USUAL_RATES
        if least <= learning_rate <= most:
            return None
        if learning_rate < least:
            effect = "it will probably learn almost nothing"
        else:
            effect = "training will probably diverge"
        return f"{learning_rate:g} is outside {self.NAME}'s usual range ({least:g} to {most:g}); {effect}"

    @contextmanager
    def eval_weights(self, optimizer: Optimizer) -> Iterator[None]:
        """Context manager: swap in the weights to export; restore the training weights bit for bit on exit."""
        # most optimizers export the weights that they train
        yield


class AdamLike(OptimizerOptions):
    """Settings that AdamW and its variants share."""

    beta1: Annotated[Float, Field(ge=0, lt=1)] = 0.9
    """Decay of the running mean of gradients."""
    beta2: Annotated[Float, Field(ge=0, lt=1)] = 0.999
    """Decay of the running mean of squared gradients."""
    weight_decay: Annotated[Float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    epsilon: Annotated[Float, Field(gt=0)] = 1e-8
    """Added to the denominator of an update, so that it is never zero."""

    @property
    def adam_arguments(self) -> dict[str, Any]:
        """Keyword arguments of torch's Adam optimizers."""
        return {"betas": (self.beta1, self.beta2), "weight_decay": self.weight_decay, "eps": self.epsilon}


class AdamW(AdamLike):
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101)."""

    NAME: ClassVar[str] = "adamw"
    USUAL: ClassVar[bool] = True
    ELEMENTWISE: ClassVar[bool] = True
    type: Literal["adamw"] = "adamw"
    """The optimizer."""

    def build(self, groups: Sequence[ParamGroupDict], learning_rate: float) -> Optimizer:
        """torch's AdamW; the fused one, with a single kernel for all parameters, where all are on a GPU."""
        import torch

        on_gpu = all(p.device.type == "cuda" for group in groups for p in group["params"])
        # None, not False: torch then chooses between its two other loops
        fused = True if on_gpu else None
        return torch.optim.AdamW(groups, lr=learning_rate, fused=fused, **self.adam_arguments)


def optimizer_types() -> tuple[type[OptimizerOptions], ...]:
    """Every optimizer class of this package."""
    return subclasses("dbrun.options", OptimizerOptions)
