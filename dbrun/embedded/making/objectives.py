"""What pre-training minimises: the autoencoder's reconstruction error, the denoiser's v-prediction error."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

KL_WEIGHT = 1e-3
TIMESTEPS = 1000


def pixel_loss(drawn: Tensor, pictures: Tensor) -> Tensor:
    """L1 and L2 on pixels, L1 on edges and on 4×4 means (which holds the colours); both [B, 3, 64, 64]."""
    # the squared part weighs the few pixels that are far off: eyes, hats, the right hue
    pixels = functional.l1_loss(drawn, pictures) + 2.0 * functional.mse_loss(drawn, pictures)
    colours = functional.l1_loss(functional.avg_pool2d(drawn, 4), functional.avg_pool2d(pictures, 4))
    edges = functional.l1_loss(drawn.diff(dim=-1), pictures.diff(dim=-1))
    edges = edges + functional.l1_loss(drawn.diff(dim=-2), pictures.diff(dim=-2))
    total: Tensor = pixels + colours + 0.5 * edges
    return total


def reconstruction_loss(vae: AutoencoderKL, pictures: Tensor, noise: Tensor) -> Tensor:
    """The drawing loss after encoding, sampling with `noise` [B, 8, 16, 16] and decoding, plus a little KL."""
    posterior = vae.encode(pictures).latent_dist
    z = posterior.mean + posterior.std * noise
    drawn = vae.decode(z, return_dict=False)[0].float()
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).float().mean()
    total: Tensor = pixel_loss(drawn, pictures) + KL_WEIGHT * kl
    return total


def alpha_bar_schedule() -> Tensor:
    """Stable Diffusion's alpha-bar for t = 0 … 999."""
    betas: Tensor = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0).to(torch.float32)


def noisy_and_velocity(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """x_t and the target v = sqrt(alpha_bar)·noise - sqrt(1 - alpha_bar)·x0 (Salimans & Ho 2022, app. D)."""
    signal, spread = alpha_bar.sqrt().view(-1, 1, 1, 1), (1 - alpha_bar).sqrt().view(-1, 1, 1, 1)
    return signal * x0 + spread * noise, signal * noise - spread * x0


def v_loss(prediction: Tensor, v: Tensor) -> Tensor:
    """The squared error of v, equal for all timesteps: the noisy ones decide on the bodies, and count as much."""
    return (prediction.float() - v).square().mean()
