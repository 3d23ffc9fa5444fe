"""The variance-preserving diffusion process: noising, training target, signal-to-noise ratio and beta schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args

import torch
from torch import Tensor

from dbrun.diffusion.device_copy import to_device
from dbrun.diffusion.prediction import BetaSchedule, DdpmPrediction, PredictionType
from dbrun.errors import RecipeError


@dataclass(frozen=True)
class DiffusionProcess:
    """A variance-preserving process: q(x_t | x0) = N(sqrt(alpha_bar_t) x0, (1 - alpha_bar_t) I).

    Ho et al. 2020 (arXiv:2006.11239), eq. 4. alpha_bar: float64 [T] on the CPU; prediction: what the denoiser predicts.
    In all methods x0, x_t and noise are [B, …] and t is int64 [B] in [0, T).
    """

    alpha_bar: Tensor
    prediction: PredictionType

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> DiffusionProcess:
        """The process of a diffusers scheduler config.

        Raises RecipeError where its prediction type or beta schedule is unknown.
        """
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in get_args(DdpmPrediction):
            raise RecipeError(f"the base's scheduler says prediction_type `{prediction}`; "
                              f"allowed are {', '.join(get_args(DdpmPrediction))}", fix="choose another base")
        alpha_bar = torch.cumprod(1.0 - _betas(config), dim=0)
        if config.get("rescale_betas_zero_snr"):
            alpha_bar = _rescale_zero_terminal_snr(alpha_bar)
        return DiffusionProcess(alpha_bar, prediction)

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps."""
        return len(self.alpha_bar)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noisy sample [B, …] of x0's dtype: x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise.

        Ho et al. 2020, eq. 4.
        """
        a, s = self._signal_and_noise(t, x0)
        return a * x0 + s * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Training target [B, …]: noise, x0, or v = sqrt(alpha_bar_t) noise - sqrt(1 - alpha_bar_t) x0.

        v: Salimans and Ho 2022 (arXiv:2202.00512), app. D.
        """
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return x0
        a, s = self._signal_and_noise(t, x0)
        return a * noise - s * x0

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha_bar_t / (1 - alpha_bar_t), float64 [B] (Kingma et al. 2021, eq. 2)."""
        alpha_bar = self.alpha_bar[t.cpu()]
        return alpha_bar / (1.0 - alpha_bar)

    def _signal_and_noise(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), both [B, 1, …, 1] with the dtype and device of `like`."""
        alpha_bar = self.alpha_bar[t.cpu()].view(-1, *[1] * (like.ndim - 1))
        # MPS has no float64: take the roots on the CPU, lower the precision there, and only then move the result
        signal = alpha_bar.sqrt().to(like.dtype)
        noise = (1.0 - alpha_bar).sqrt().to(like.dtype)
        there = to_device({"signal": signal, "noise": noise}, like.device)
        return there["signal"], there["noise"]


def _betas(config: Mapping[str, Any]) -> Tensor:
    """Noise variances float64 [T], by the formulas of diffusers' DDPMScheduler."""
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    kind = config.get("beta_schedule", "linear")
    steps = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    if kind == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if kind == "scaled_linear":
        # linear in sqrt(beta): Stable Diffusion's schedule
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    if kind == "squaredcos_cap_v2":
        # Nichol and Dhariwal 2021 (arXiv:2102.09672), eq. 17; the limit keeps the last step from being singular
        bar = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        betas = [min(1 - after / before, 0.999) for before, after in pairwise(bar)]
        return torch.tensor(betas, dtype=torch.float64)
    raise RecipeError(f"the base's scheduler says beta_schedule `{kind}`; "
                      f"allowed are {', '.join(get_args(BetaSchedule))}", fix="choose another base")


def _rescale_zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """alpha_bar [T] whose last value is 0: Lin et al. 2023 (arXiv:2305.08891), algorithm 1."""
    root = alpha_bar.sqrt()
    # shift the end to 0, then scale so that the first value stays as it was
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
