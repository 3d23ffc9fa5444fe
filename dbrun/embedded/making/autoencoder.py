"""Training of the autoencoder: both halves first; later its decoder alone, with the latents unchanged."""

from __future__ import annotations

import copy

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dbrun.embedded.making.architecture import LATENT_CHANNELS, LATENT_SIDE, build_vae
from dbrun.embedded.making.course import Phase
from dbrun.embedded.making.objectives import pixel_loss, reconstruction_loss
from dbrun.embedded.making.scenes import Latents, Pictures, as_tensor, latent_means
from dbrun.embedded.making.sitting import LOG, PretrainSettings, train_phase
from dbrun.embedded.making.units import standardize_latents

BATCH_SIZE = 16
DECODER_NOISE = 0.05
"""Standard deviation of the noise on the decoder's latents: the denoiser's latents are not exact either."""


def train_autoencoder(plan: PretrainSettings, pictures: Pictures, minutes: float) -> AutoencoderKL:
    """Train the autoencoder and standardise its latents; resumes, or loads a finished one.

    pictures: uint8 [N, 64, 64, 3]; minutes: the budget over all sittings.
    """
    folder = plan.out / "vae"
    if plan.start is not None:
        folder = plan.start / "vae"
    if folder.exists():
        stored: AutoencoderKL = AutoencoderKL.from_pretrained(folder, dtype=torch.float32)
        return stored.to(plan.device).eval().requires_grad_(False)
    torch.manual_seed(plan.seed)
    network = build_vae(plan.sizes).to(plan.device)
    phase = Phase(network, copy.deepcopy(network), plan.out / "vae.ckpt")

    def loss_at(step: int) -> Tensor:
        # seeded by the step: a resumed run sees the same batches. Sorted: the memory map is read in order
        generator = plan.generator("vae", step)
        chosen = torch.randint(len(pictures), (BATCH_SIZE,), generator=generator).sort().values
        noise = torch.randn(BATCH_SIZE, LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE, generator=generator)
        with plan.autocast():
            batch = as_tensor(pictures[chosen.numpy()]).to(plan.device)
            return reconstruction_loss(network, batch, noise.to(plan.device))

    def report() -> None:
        LOG.info("vae: %.2f dB on 64 scenes", psnr(phase.average, pictures[:64], plan.device))

    train_phase(phase, loss_at, minutes, None, report)
    standardize_latents(phase.average, latent_means(phase.average, pictures[:2048], plan.device))
    # written beside, then renamed: the folder is the mark that this phase is done
    part = plan.out / "vae.part"
    phase.average.save_pretrained(part)
    part.rename(folder)
    return phase.average


def finetune_decoder(
    plan: PretrainSettings, vae: AutoencoderKL, pictures: Pictures, latents: Latents, minutes: float
) -> AutoencoderKL:
    """Copy of the autoencoder with its decoder trained further on latents [N, 8, 16, 16]; the encoder is frozen."""
    # the denoiser was trained on this encoder's latents, so the encoder must not change any more
    network = copy.deepcopy(vae).train()
    network.requires_grad_(False)
    for half in (network.decoder, network.post_quant_conv):
        half.requires_grad_(True)
    phase = Phase(network, copy.deepcopy(network), plan.out / "decoder.ckpt")

    def loss_at(step: int) -> Tensor:
        generator = plan.generator("decoder", step)
        chosen = torch.randint(len(pictures), (BATCH_SIZE,), generator=generator).sort().values
        exact = torch.from_numpy(latents[chosen.numpy()]).float()
        z = exact + DECODER_NOISE * torch.randn(exact.shape, generator=generator)
        with plan.autocast():
            drawn = network.decode(z.to(plan.device), return_dict=False)[0].float()
            return pixel_loss(drawn, as_tensor(pictures[chosen.numpy()]).to(plan.device))

    def report() -> None:
        LOG.info("decoder: %.2f dB on 64 scenes", psnr(phase.average, pictures[:64], plan.device))

    train_phase(phase, loss_at, minutes, None, report)
    return phase.average


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Pictures, device: torch.device) -> float:
    """Mean peak signal-to-noise ratio in dB of pictures [N, 64, 64, 3] that the autoencoder encoded and decoded."""
    batch = as_tensor(pictures).to(device)
    means = vae.encode(batch).latent_dist.mean
    drawn = vae.decode(means, return_dict=False)[0].clamp(-1, 1)
    # pixels span 2, so the squared peak is 4
    error = (drawn - batch).square().mean(dim=(1, 2, 3)) / 4
    return float((-10 * error.log10()).mean())
