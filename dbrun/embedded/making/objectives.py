"""Losses of pre-training: the autoencoder's reconstruction loss and the denoiser's v-prediction loss."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

KL_WEIGHT = 1e-3
TIMESTEPS = 1000


def pixel_loss(drawn: Tensor, pictures: Tensor) -> Tensor:
    """Scalar loss of drawn against pictures, both [B, 3, 64, 64]: L1 and L2 on pixels, L1 on 4×4 means and on edges."""
    # the squared part weighs the few pixels that are far off: eyes, hats, a wrong hue
    pixels = functional.l1_loss(drawn, pictures) + 2.0 * functional.mse_loss(drawn, pictures)
    # means over 4×4 pixels keep the colours of areas right
    colours = functional.l1_loss(functional.avg_pool2d(drawn, 4), functional.avg_pool2d(pictures, 4))
    edges = functional.l1_loss(drawn.diff(dim=-1), pictures.diff(dim=-1))
    edges = edges + functional.l1_loss(drawn.diff(dim=-2), pictures.diff(dim=-2))
    total: Tensor = pixels + colours + 0.5 * edges
    return total


def reconstruction_loss(vae: AutoencoderKL, pictures: Tensor, noise: Tensor) -> Tensor:
    """Scalar loss of a VAE on pictures [B, 3, 64, 64] with the noise [B, 8, 16, 16] of its latents, and a KL term."""
    # z = mean + std · noise (Kingma and Welling 2013, arXiv:1312.6114, section 2.4)
    posterior = vae.encode(pictures).latent_dist
    z = posterior.mean + posterior.std * noise
    drawn = vae.decode(z, return_dict=False)[0].float()
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).float().mean()
    total: Tensor = pixel_loss(drawn, pictures) + KL_WEIGHT * kl
    return total


def alpha_bar_schedule() -> Tensor:
    """Stable Diffusion's alpha-bar for t = 0 … 999, float32 [1000]."""
    betas: Tensor = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0).to(torch.float32)


def noisy_and_velocity(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy latents x_t and target v, both [B, C, h, w], from x0 and noise [B, C, h, w] and alpha_bar [B].

    v = sqrt(alpha_bar)·noise - sqrt(1 - alpha_bar)·x0 (Salimans and Ho 2022, arXiv:2202.00512, app. D).
    """
    signal = alpha_bar.sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alpha_bar).sqrt().view(-1, 1, 1, 1)
    x_t = signal * x0 + sigma * noise
    v = signal * noise - sigma * x0
    return x_t, v


def v_loss(prediction: Tensor, v: Tensor) -> Tensor:
    """Mean squared error of a prediction of v, both [B, C, h, w]."""
    # the same weight for all timesteps: the noisy ones, which decide the shapes, must count as much
    return (prediction.float() - v).square().mean()
