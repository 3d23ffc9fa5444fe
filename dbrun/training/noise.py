"""Which noise does a picture get at one place of the training?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from dbrun.diffusion import noise
from dbrun.options.noise import Pyramid


@dataclass(frozen=True)
class Noise:
    """White noise, and what is added to it; each part has an address of its own, so that none moves another.

    offset: strength of the noise offset; perturbation: strength of the noise that only the input gets.
    """

    offset: float = 0.0
    perturbation: float = 0.0
    pyramid: Pyramid | None = None

    def __call__(self, shape: Sequence[int], at: Callable[[str], Generator]) -> tuple[Tensor, Tensor]:
        """(the noise that is to be predicted, the noise that is put on the sample), both of this shape [C, h, w].

        The two differ by the perturbation (Ning et al. 2023, arXiv:2301.11706). at: what for -> its generator.
        """
        target = torch.randn(tuple(shape), generator=at("noise"))
        if self.offset:
            brightness = torch.randn((len(target), 1, 1), generator=at("noise offset"))
            target = noise.offset_noise(target, self.offset, brightness)
        if self.pyramid:
            target = noise.pyramid_noise(target, self.pyramid.discount, self.pyramid.levels, at("pyramid noise"))
        if not self.perturbation:
            return target, target
        return target, target + self.perturbation * torch.randn(tuple(shape), generator=at("input perturbation"))


WHITE = Noise()
