"""Standardisation of the latents, folded into the autoencoder's weights: every channel gets mean 0 and spread 1."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor


@torch.no_grad()
def standardize_latents(vae: AutoencoderKL, latents: Tensor) -> None:
    """Change the two 1×1 convolutions around the latents so that latents [N, C, h, w] get mean 0 and spread 1.

    The decoded pictures stay the same. Changes vae in place.
    """
    # Stable Diffusion's format has one scaling factor for all channels: a channel of small spread would drown in the
    # noise before the others
    mean, spread = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    # the first half of the encoder's output channels are means, the second half log-variances
    channels = len(mean)
    into.weight[:channels] /= spread.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - mean) / spread
    into.bias[channels:] -= 2 * spread.log()
    # the inverse in front of the decoder; the bias first, because it needs the old weight
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= spread.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)
