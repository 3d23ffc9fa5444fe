"""Training noise other than white noise: offset noise and pyramid noise."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate


def offset_noise(noise: Tensor, strength: float, brightness: Tensor) -> Tensor:
    """Offset noise: noise [C, h, w] + strength * brightness -> [C, h, w].

    brightness: standard normal, [C, 1, 1]; one number shifts a whole channel, so that the mean brightness of a picture
    is learnt as well. Guttenberg and CrossLabs 2023, "Diffusion with offset noise".
    """
    return noise + strength * brightness


def pyramid_noise(noise: Tensor, discount: float, levels: int, draw: Generator) -> Tensor:
    """Pyramid noise [C, h, w]: noise + the sum over i of discount^i * noise at 1 / r^i of the size, scaled to std 1.

    levels: the most levels that are added, i = 0, 1, …; r is drawn from [2, 4) for each. The last level is one element
    wide or high. draw: the generator of r and of the coarse noise.
    Whitaker 2023, "Multi-resolution noise for diffusion model training".
    """
    height, width = noise.shape[1:]
    total = noise
    for i in range(levels):
        r = 2.0 + 2.0 * torch.rand((), generator=draw, dtype=torch.float64).item()
        size = max(1, int(height / r**i)), max(1, int(width / r**i))
        coarse = torch.randn((1, len(noise), *size), generator=draw)
        enlarged = interpolate(coarse, size=(height, width), mode="bilinear")[0]
        total = total + discount**i * enlarged
        # nothing coarser than one element exists
        if 1 in size:
            break
    # the process assumes noise of variance 1
    return total / total.std()
