"""How diffusers' pipelines of flow matching are asked, family by family, for `oracles/test_flow_families.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from diffusers import (
    ChromaImg2ImgPipeline,
    Flux2KleinPipeline,
    FluxImg2ImgPipeline,
    FluxPipeline,
    QwenImageImg2ImgPipeline,
    StableDiffusion3Img2ImgPipeline,
    ZImageImg2ImgPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

Keywords = Mapping[str, Any]


@dataclass(frozen=True)
class FlowPipeline:
    """A family's pipeline.

    encode: arguments of its `encode_prompt` beside prompt and device; results: name in a condition -> its place in what
    that returns; image_to_image: a pipeline that prepares a picture; noised: how it noises one; x_t: the denoiser's
    arguments by name, height and width in latent pixels -> x_t [1, C, h, w]; sigma: those arguments -> noise level; at:
    noise level -> the arguments that ask the denoiser there; prediction: its output, height and width -> noise - x0,
    [1, C, h, w]; call: further arguments of the pipeline; mask: place of the mask of a prompt, None where all of it is
    read; mended: arguments of the denoiser by name -> those that the pipeline gives wrong, as they should be;
    shift_of_sampling: whether it samples with a shift by its number of steps, which training has none of.
    """

    encode: Keywords
    results: Mapping[str, int]
    image_to_image: type[Any]
    noised: Callable[[Any, Tensor, Tensor, Any], Tensor]
    x_t: Callable[[Keywords, int, int], Tensor]
    sigma: Callable[[Keywords], float]
    at: Callable[[Tensor], Keywords]
    prediction: Callable[[Any, int, int], Tensor]
    call: Keywords = field(default_factory=dict)
    mask: int | None = None
    mended: Callable[[Keywords], Keywords] = lambda asked: {}
    shift_of_sampling: bool = False


def unpack_flux(tokens: Tensor, height: int, width: int) -> Tensor:
    """The pipeline's own unpacking, for a VAE of factor 1."""
    unpacked: Tensor = FluxPipeline._unpack_latents(tokens, height, width, 1)
    return unpacked


def noise_flux(pipeline: Any, pixels: Tensor, timestep: Tensor, generator: Any) -> Tensor:
    """Noised latents [1, C, h, w] of pixels [1, 3, H, W], as image-to-image begins."""
    height, width = pixels.shape[-2:]
    channels = pipeline.vae.config.latent_channels
    packed, _ = pipeline.prepare_latents(pixels, timestep, 1, channels, height, width, pixels.dtype, pixels.device,
                                         generator)
    factor = pipeline.vae_scale_factor
    return unpack_flux(packed, height // factor, width // factor)


def noise_z_image(pipeline: Any, pixels: Tensor, timestep: Tensor, generator: Any) -> Tensor:
    """As `noise_flux`, but of the mean of the latents, as the base was trained; the pipeline draws one instead."""
    with patch.object(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()):
        height, width = pixels.shape[-2:]
        channels = pipeline.vae.config.latent_channels
        noised: Tensor = pipeline.prepare_latents(pixels, timestep, 1, channels, height, width, pixels.dtype,
                                                  pixels.device, generator)
    return noised


def noise_sd3(pipeline: Any, pixels: Tensor, timestep: Tensor, generator: Any) -> Tensor:
    """As `noise_flux`: this pipeline packs nothing."""
    noised: Tensor = pipeline.prepare_latents(pixels, timestep, 1, 1, pixels.dtype, pixels.device, generator)
    return noised


def noise_klein(pipeline: Any, pixels: Tensor, timestep: Tensor, generator: Any) -> Tensor:
    """Noised latents of a picture as the pipeline encodes one to look at: it has no image-to-image."""
    x0 = pipeline._encode_vae_image(pixels, generator)
    noised: Tensor = pipeline.scheduler.scale_noise(x0, timestep, torch.randn(x0.shape, generator=generator))
    return noised


def unpack_klein(tokens: Tensor, height: int, width: int) -> Tensor:
    """The pipeline's own unpacking."""
    ids = Flux2KleinPipeline._prepare_latent_ids(torch.empty(1, 1, height, width))
    unpacked: Tensor = Flux2KleinPipeline._unpack_latents_with_ids(tokens, ids, height, width)
    return unpacked


def noise_qwen(pipeline: Any, pixels: Tensor, timestep: Tensor, generator: Any) -> Tensor:
    """As `noise_flux`."""
    height, width = pixels.shape[-2:]
    packed = pipeline.prepare_latents(pixels, timestep, 1, pipeline.vae.config.z_dim, height, width, pixels.dtype,
                                      pixels.device, generator)
    factor = pipeline.vae_scale_factor
    return unpack_flux(packed, height // factor, width // factor)


FLOW_PIPELINES: Mapping[str, FlowPipeline] = {
    # its masks are numbers, which attention adds, instead of truth values (huggingface/diffusers issue 13619)
    "chroma": FlowPipeline(
        encode={"max_sequence_length": 96}, results={"hidden": 0}, image_to_image=ChromaImg2ImgPipeline,
        noised=noise_flux, x_t=lambda asked, h, w: unpack_flux(asked["hidden_states"], h, w),
        sigma=lambda asked: float(asked["timestep"]), at=lambda sigma: {"timestep": sigma},
        prediction=lambda output, h, w: unpack_flux(output[0], h, w), call={"max_sequence_length": 96}, mask=2,
        mended=lambda asked: {"attention_mask": asked["attention_mask"].bool()}),
    "flux": FlowPipeline(
        encode={"max_sequence_length": 96}, results={"hidden": 0, "pooled": 1}, image_to_image=FluxImg2ImgPipeline,
        noised=noise_flux, x_t=lambda asked, h, w: unpack_flux(asked["hidden_states"], h, w),
        sigma=lambda asked: float(asked["timestep"]), at=lambda sigma: {"timestep": sigma},
        prediction=lambda output, h, w: unpack_flux(output[0], h, w), call={"max_sequence_length": 96}),
    "flux2_klein": FlowPipeline(
        encode={}, results={"hidden": 0}, image_to_image=Flux2KleinPipeline, noised=noise_klein,
        x_t=lambda asked, h, w: unpack_klein(asked["hidden_states"], h, w),
        sigma=lambda asked: float(asked["timestep"]), at=lambda sigma: {"timestep": sigma},
        prediction=lambda output, h, w: unpack_klein(output[0], h, w), shift_of_sampling=True),
    # it has no image-to-image; the one of Qwen-Image prepares its latents, and their tokens are packed as FLUX.1's
    "krea2": FlowPipeline(
        encode={}, results={"hidden": 0}, image_to_image=QwenImageImg2ImgPipeline, noised=noise_qwen,
        x_t=lambda asked, h, w: unpack_flux(asked["hidden_states"], h, w),
        sigma=lambda asked: float(asked["timestep"]), at=lambda sigma: {"timestep": sigma},
        # to it a guidance of 0, not 1, is none
        prediction=lambda output, h, w: unpack_flux(output[0], h, w), call={"guidance_scale": 0.0}, mask=1),
    "sd3": FlowPipeline(
        encode={"prompt_2": None, "prompt_3": None, "max_sequence_length": 96}, results={"hidden": 0, "pooled": 2},
        image_to_image=StableDiffusion3Img2ImgPipeline, noised=noise_sd3,
        x_t=lambda asked, h, w: asked["hidden_states"], sigma=lambda asked: float(asked["timestep"]) / 1000,
        at=lambda sigma: {"timestep": 1000 * sigma}, prediction=lambda output, h, w: output[0],
        call={"max_sequence_length": 96}),
    # its tokens are packed as those of FLUX.1
    "qwen_image": FlowPipeline(
        encode={}, results={"hidden": 0}, image_to_image=QwenImageImg2ImgPipeline, noised=noise_qwen,
        x_t=lambda asked, h, w: unpack_flux(asked["hidden_states"], h, w),
        sigma=lambda asked: float(asked["timestep"]), at=lambda sigma: {"timestep": sigma},
        prediction=lambda output, h, w: unpack_flux(output[0], h, w)),
    # it asks with the prompt and without it in one batch, whatever the guidance
    "z_image": FlowPipeline(
        encode={}, results={"hidden": 0}, image_to_image=ZImageImg2ImgPipeline, noised=noise_z_image,
        x_t=lambda asked, h, w: asked["x"][0].transpose(0, 1), sigma=lambda asked: 1.0 - float(asked["t"][0]),
        at=lambda sigma: {"t": 1.0 - sigma.repeat(2)}, prediction=lambda output, h, w: -output[0][0].transpose(0, 1)),
}
"""Family -> its pipeline. A new family of flow matching is one more entry."""
