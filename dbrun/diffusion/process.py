"""The process that training follows: how samples are noised, and what the denoiser learns to predict."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from dbrun.diffusion.prediction import PredictionType


class Process(Protocol):
    """A process over the timesteps t in [0, T); 0 is the cleanest.

    In all methods x0, x_t and noise are [B, …] and t is int64 [B] in [0, T).
    """

    @property
    def prediction(self) -> PredictionType:
        """What the denoiser predicts."""

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps."""

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noisy sample x_t, [B, …] of x0's dtype."""

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser is to predict from x_t, [B, …]."""

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio: (factor of x0 / factor of noise)² in x_t, float64 [B] on the CPU, at least 0."""
