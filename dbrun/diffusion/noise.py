"""What noise does a sample get, if it is not plain white noise?"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate


def offset_noise(noise: Tensor, strength: float, brightness: Tensor) -> Tensor:
    """noise [C, h, w] + strength * brightness [C, 1, 1], normal numbers, so that the mean brightness is learnt as well.

    Guttenberg and CrossLabs 2023, "Diffusion with offset noise".
    """
    return noise + strength * brightness


def pyramid_noise(noise: Tensor, discount: float, levels: int, draw: Generator) -> Tensor:
    """noise [C, h, w] + sum over i of discount^i * noise at 1 / r^i of the size, divided by its standard deviation.

    r is drawn anew from [2, 4) for each level i = 0, 1, …; the last is one element wide or high. Whitaker 2023,
    "Multi-resolution noise for diffusion model training".
    """
    height, width = noise.shape[1:]
    total = noise
    for i in range(levels):
        r = 2.0 + 2.0 * torch.rand((), generator=draw, dtype=torch.float64).item()
        size = max(1, int(height / r**i)), max(1, int(width / r**i))
        coarse = torch.randn((1, len(noise), *size), generator=draw)
        total = total + discount**i * interpolate(coarse, size=(height, width), mode="bilinear")[0]
        if 1 in size:
            break
    return total / total.std()
