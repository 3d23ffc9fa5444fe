"""Loss functions: distances between a prediction and its target, one value per sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Float, Part, subclasses

if TYPE_CHECKING:
    from torch import Tensor

    from dbrun.diffusion.process import Process


class LossFunction(Part):
    """A distance per sample, averaged over the sample's elements."""

    NAME: ClassVar[str]

    def per_sample(self, pred: Tensor, target: Tensor, t: Tensor, process: Process,
                   counts: Tensor | None = None) -> Tensor:
        """Distance between pred [B, …] and target [B, …] at timesteps t [B], as float32 [B].

        counts: weight of each position of the picture, [B, 1, h, w]; None for equal weights.
        """
        raise NotImplementedError


class SquaredError(LossFunction):
    """The mean squared error."""

    NAME: ClassVar[str] = "mse"
    type: Literal["mse"] = "mse"
    """The distance."""

    def per_sample(self, pred: Tensor, target: Tensor, t: Tensor, process: Process,
                   counts: Tensor | None = None) -> Tensor:
        """Mean of (pred - target)^2 over [B, …], as float32 [B]; the same rule at every timestep."""
        from dbrun.diffusion.losses import per_sample_mse

        return per_sample_mse(pred, target, counts)


MSE = SquaredError.from_defaults()


class AbsoluteError(LossFunction):
    """The mean absolute error."""

    NAME: ClassVar[str] = "l1"
    type: Literal["l1"]
    """The distance."""

    def per_sample(self, pred: Tensor, target: Tensor, t: Tensor, process: Process,
                   counts: Tensor | None = None) -> Tensor:
        """Mean of |pred - target| over [B, …], as float32 [B]; the same rule at every timestep."""
        from dbrun.diffusion.losses import per_sample_l1

        return per_sample_l1(pred, target, counts)


class Huber(LossFunction):
    """Scheduled pseudo-Huber loss (Khrapov et al. 2024, arXiv:2403.16728), as in kohya's scripts and diffusers."""

    NAME: ClassVar[str] = "huber"
    type: Literal["huber"]
    """The distance."""
    delta: Annotated[Float, Field(gt=0, le=1000)] = 0.1
    """Difference at which the loss turns from quadratic to linear: at the noisiest timestep, or with
    `schedule: constant` at every timestep."""
    schedule: Literal["constant", "snr", "exponential"] = "snr"
    """How that difference falls from about 1 at t = 0 to `delta` at t = T: with the signal-to-noise ratio (`snr`), or
    as delta ** (t / T) (`exponential`). `constant`: it is `delta` at every timestep."""

    def deltas(self, t: Tensor, process: Process) -> Tensor:
        """Delta of each timestep of t [B], as float64 [B]."""
        import torch

        if self.schedule == "exponential":
            return self.delta ** (t.cpu().double() / process.num_timesteps)
        if self.schedule == "snr":
            # sigma = 1 / sqrt(snr) is infinite without signal, its inverse is not: (1 + sigma)^-2 = (s / (s + 1))^2
            s = process.snr(t).sqrt()
            return (1.0 - self.delta) * (s / (s + 1.0)).square() + self.delta
        return torch.full(t.shape, self.delta, dtype=torch.float64)

    def per_sample(self, pred: Tensor, target: Tensor, t: Tensor, process: Process,
                   counts: Tensor | None = None) -> Tensor:
        """Mean of 2 delta (sqrt(d^2 + delta^2) - delta) over d = pred - target [B, …], as float32 [B].

        That is about d^2 for small d and about 2 delta |d| for large d.
        """
        from dbrun.diffusion.losses import per_sample_pseudo_huber

        return per_sample_pseudo_huber(pred, target, self.deltas(t, process), counts)


def loss_function_types() -> tuple[type[LossFunction], ...]:
    """Every loss function class of this package."""
    return subclasses("dbrun.options", LossFunction)
