"""The noise of one row of a micro-batch: white noise and what a recipe adds to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from dbrun.diffusion import noise
from dbrun.options.noise import Pyramid


@dataclass(frozen=True)
class Noise:
    """White noise and its additions, each drawn from a generator of its own: turning one on changes no other draw.

    offset: strength of offset noise, 0 for none; perturbation: strength of the input perturbation, 0 for none;
    pyramid: settings of pyramid noise, None for none.
    """

    offset: float = 0.0
    perturbation: float = 0.0
    pyramid: Pyramid | None = None

    def __call__(self, shape: Sequence[int], at: Callable[[str], Generator]) -> tuple[Tensor, Tensor]:
        """(the noise to predict, the noise added to the sample), both float32 of this shape [C, h, w].

        They differ by the input perturbation (Ning et al. 2023, arXiv:2301.11706). at: purpose -> generator.
        """
        target = torch.randn(tuple(shape), generator=at("noise"))
        if self.offset:
            brightness = torch.randn((len(target), 1, 1), generator=at("noise offset"))
            target = noise.offset_noise(target, self.offset, brightness)
        if self.pyramid:
            target = noise.pyramid_noise(target, self.pyramid.discount, self.pyramid.levels, at("pyramid noise"))
        if not self.perturbation:
            return target, target
        # only the input is perturbed: it imitates the prediction errors that the sampler meets at inference
        perturbation = torch.randn(tuple(shape), generator=at("input perturbation"))
        return target, target + self.perturbation * perturbation


WHITE = Noise()
"""White noise alone."""
