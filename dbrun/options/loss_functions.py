"""How is the difference between a prediction and its target measured?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Float, Part, subclasses

if TYPE_CHECKING:
    from torch import Tensor

    from dbrun.diffusion.process import DiffusionProcess


class LossFunction(Part):
    """A distance for each sample, averaged over its elements."""

    NAME: ClassVar[str]

    def per_sample(self, pred: Tensor, target: Tensor, t: Tensor, process: DiffusionProcess,
                   counts: Tensor | None = None) -> Tensor:
        """[B, …] and [B, …] at timesteps t [B] -> float32 [B]; counts: how much each place counts, [B, 1, h, w]."""
        raise NotImplementedError


class SquaredError(LossFunction):
    """The mean squared error."""

    NAME: ClassVar[str] = "mse"
    type: Literal["mse"] = "mse"
    """The distance."""

    def per_sample(self, pred: Tensor, target: Tensor, t: Tensor, process: DiffusionProcess,
                   counts: Tensor | None = None) -> Tensor:
        """The same at every timestep."""
        from dbrun.diffusion.losses import per_sample_mse

        return per_sample_mse(pred, target, counts)


MSE = SquaredError.from_defaults()


class AbsoluteError(LossFunction):
    """The mean absolute error."""

    NAME: ClassVar[str] = "l1"
    type: Literal["l1"]
    """The distance."""

    def per_sample(self, pred: Tensor, target: Tensor, t: Tensor, process: DiffusionProcess,
                   counts: Tensor | None = None) -> Tensor:
        """The same at every timestep."""
        from dbrun.diffusion.losses import per_sample_l1

        return per_sample_l1(pred, target, counts)


class Huber(LossFunction):
    """Scheduled pseudo-Huber (Khrapov et al. 2024, arXiv:2403.16728), as kohya's scripts and diffusers have it."""

    NAME: ClassVar[str] = "huber"
    type: Literal["huber"]
    """The distance."""
    delta: Annotated[Float, Field(gt=0, le=1000)] = 0.1
    """Where squares turn into straight lines: at the noisiest timestep, or with `constant` at every one."""
    schedule: Literal["constant", "snr", "exponential"] = "snr"
    """How it falls from about 1 at t = 0 to `delta` at t = T: by the SNR, or by delta ** (t / T); or constant."""

    def deltas(self, t: Tensor, process: DiffusionProcess) -> Tensor:
        """The delta of each timestep, float64 [B]."""
        import torch

        if self.schedule == "exponential":
            return self.delta ** (t.cpu().double() / process.num_timesteps)
        if self.schedule == "snr":
            # sigma = 1 / sqrt(snr) is infinite without signal, its inverse is not: (1 + sigma)^-2 = (s / (s + 1))^2
            s = process.snr(t).sqrt()
            return (1.0 - self.delta) * (s / (s + 1.0)).square() + self.delta
        return torch.full(t.shape, self.delta, dtype=torch.float64)

    def per_sample(self, pred: Tensor, target: Tensor, t: Tensor, process: DiffusionProcess,
                   counts: Tensor | None = None) -> Tensor:
        """2 delta (sqrt(d^2 + delta^2) - delta) for a difference d: d^2 where it is small, 2 delta |d| where large."""
        from dbrun.diffusion.losses import per_sample_pseudo_huber

        return per_sample_pseudo_huber(pred, target, self.deltas(t, process), counts)


def loss_function_types() -> tuple[type[LossFunction], ...]:
    """Every distance."""
    return subclasses("dbrun.options", LossFunction)
