"""Contrastive losses of the encoder: pictures against captions, and two pictures of one individual against others."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

PAIR_TEMPERATURE = 0.1
"""Temperature of the loss between pictures (SimCLR's for small batches)."""
MAX_SCALE = 100.0
"""Largest inverse temperature of the loss between pictures and captions (Radford et al. 2021, section 2.5)."""
SHIFT = 3
"""Largest shift of a training picture in pixels."""
NOISE = 0.04
"""Largest standard deviation of the noise on training pictures, which span -1 … 1."""


def caption_loss(pictures: Tensor, texts: Tensor, same_text: Tensor, log_scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy (Radford et al. 2021, figure 3) of unit embeddings, both [N, D]; a scalar.

    same_text: bool [N, N], whether two captions are equal; log_scale: logarithm of the inverse temperature.
    """
    scale = log_scale.clamp(max=math.log(MAX_SCALE)).exp()
    own = torch.arange(len(pictures), device=pictures.device)
    # an equal caption of another picture is true of this one, too, so it is no negative
    twins = same_text & ~torch.eye(len(pictures), dtype=torch.bool, device=pictures.device)
    logits = (scale * pictures @ texts.T).masked_fill(twins, -math.inf)
    total: Tensor = functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)
    return total / 2


def individual_loss(pictures: Tensor) -> Tensor:
    """NT-Xent (Chen et al. 2020, arXiv:2002.05709, equation 1) of unit embeddings [2N, D]; a scalar.

    Rows i and N + i show the same individual in two views; all other rows are negatives.
    """
    count = len(pictures)
    logits = pictures @ pictures.T / PAIR_TEMPERATURE
    logits = logits.masked_fill(torch.eye(count, dtype=torch.bool, device=pictures.device), -math.inf)
    partner = torch.arange(count, device=pictures.device).roll(count // 2)
    loss: Tensor = functional.cross_entropy(logits, partner)
    return loss


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shift, blur, dim and add noise to each picture of [N, 3, S, S] in -1 … 1, by random amounts.

    A base's pictures are softer than drawings and never quite in their colours; the encoder must not mind.
    """
    count, _, side, _ = pictures.shape
    padded = functional.pad(pictures, (SHIFT,) * 4, mode="replicate")
    offsets = torch.randint(2 * SHIFT + 1, (count, 2), generator=generator).tolist()
    shifted = torch.stack([row[:, y : y + side, x : x + side] for row, (y, x) in zip(padded, offsets, strict=True)])
    blurred = functional.avg_pool2d(shifted, 3, stride=1, padding=1, count_include_pad=False)
    share = torch.rand(count, 1, 1, 1, generator=generator)
    gain = 1 + 0.16 * (torch.rand(count, 1, 1, 1, generator=generator) - 0.5)
    noise = torch.randn(pictures.shape, generator=generator)
    strength = NOISE * torch.rand(count, 1, 1, 1, generator=generator)
    return torch.lerp(shifted, blurred, share) * gain + strength * noise
