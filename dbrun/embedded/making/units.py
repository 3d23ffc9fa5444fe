"""What one unit of a latent channel is: folded into the autoencoder, so that each has mean 0 and spread 1."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor


@torch.no_grad()
def standardize_latents(vae: AutoencoderKL, latents: Tensor) -> None:
    """Change the two 1×1 convolutions around the latents so that `latents` [N, C, h, w] get mean 0 and spread 1.

    Pictures in and out stay the same. Stable Diffusion's format has one factor for all channels, and a channel of
    small spread would drown in noise before the others.
    """
    mean, spread = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    # the first half of what the encoder gives is the means, the second half the logarithms of the variances
    channels = len(mean)
    into.weight[:channels] /= spread.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - mean) / spread
    into.bias[channels:] -= 2 * spread.log()
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= spread.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)
