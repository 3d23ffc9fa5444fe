"""Flow matching along straight lines: x_t lies between the sample and the noise, and the denoiser predicts the speed.

Liu et al. 2022 (arXiv:2209.03003); Lipman et al. 2022 (arXiv:2210.02747); named as in Esser et al. 2024
(arXiv:2403.03206), section 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dbrun.diffusion.device_copy import to_device
from dbrun.diffusion.prediction import PredictionType


@dataclass(frozen=True)
class FlowMatching:
    """The process x_t = (1 - sigma) x0 + sigma noise, whose denoiser predicts noise - x0.

    Timestep t has sigma = (t + 1) / T, the grid of diffusers' FlowMatchEulerDiscreteScheduler without a shift: a shift
    only changes how often each sigma is drawn. Families turn the sign, or give their denoiser 1 - sigma, in `predict`.
    """

    num_timesteps: int = 1000

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> FlowMatching:
        """The process of a diffusers scheduler config."""
        return FlowMatching(int(config.get("num_train_timesteps", 1000)))

    @property
    def prediction(self) -> PredictionType:
        """Always the speed of the flow."""
        return "flow"

    def sigma(self, t: Tensor) -> Tensor:
        """Share of noise in x_t, (t + 1) / T: float64 [B] in (0, 1] on the CPU. t: int64 [B]."""
        return (t.cpu().double() + 1.0) / self.num_timesteps

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noisy sample [B, …] of x0's dtype: x_t = (1 - sigma) x0 + sigma noise (Esser et al. 2024, eq. 13)."""
        sigma = self.sigma(t).view(-1, *[1] * (x0.ndim - 1))
        # MPS has no float64: both factors are computed on the CPU, then rounded, and only then moved
        factors = to_device({"x0": (1.0 - sigma).to(x0.dtype), "noise": sigma.to(x0.dtype)}, x0.device)
        return factors["x0"] * x0 + factors["noise"] * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Training target [B, …]: noise - x0, the same at every t."""
        return noise - x0

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio ((1 - sigma) / sigma)², float64 [B]; 0 at the last timestep."""
        sigma = self.sigma(t)
        return ((1.0 - sigma) / sigma).square()


def shifted(u: Tensor, shift: float) -> Tensor:
    """Shift noise levels u [B] in [0, 1] to shift u / (1 + (shift - 1) u): above 1 to more noise, below 1 to less.

    Esser et al. 2024, eq. 23, where shift is the root of the ratio of two resolutions.
    """
    return shift * u / (1.0 + (shift - 1.0) * u)


def resolution_shift(config: Mapping[str, Any], tokens: int) -> float:
    """Shift of a base with `use_dynamic_shifting` for pictures of this many tokens. config: its scheduler's.

    The logarithm of the shift grows linearly with the tokens, from `base_shift` at `base_image_seq_len` to `max_shift`
    at `max_image_seq_len`; with `time_shift_type: linear`, the shift itself (`calculate_shift` of diffusers).
    """
    low, high = float(config.get("base_shift", 0.5)), float(config.get("max_shift", 1.15))
    fewest, most = int(config.get("base_image_seq_len", 256)), int(config.get("max_image_seq_len", 4096))
    mu = low + (high - low) / (most - fewest) * (tokens - fewest)
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)
