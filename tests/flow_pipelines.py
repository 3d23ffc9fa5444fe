"""How diffusers' pipelines of flow matching are asked, family by family, for `oracles/test_flow_families.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusers import FluxImg2ImgPipeline, FluxPipeline
from torch import Tensor

Keywords = Mapping[str, Any]


@dataclass(frozen=True)
class FlowPipeline:
    """A family's pipeline.

    encode: arguments of its `encode_prompt` beside prompt and device; results: name in a condition -> its place in what
    that returns; image_to_image: the pipeline whose `prepare_latents` noises a picture; x_t: the denoiser's keywords,
    height and width in latent pixels -> x_t [B, C, h, w]; sigma: those keywords -> noise level; at: noise level -> the
    keywords that ask the denoiser there; prediction: its output, height and width -> noise - x0, [B, C, h, w]; call:
    further arguments of the pipeline.
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


FLOW_PIPELINES: Mapping[str, FlowPipeline] = {
    "flux": FlowPipeline(
        encode={"max_sequence_length": 96}, results={"hidden": 0, "pooled": 1}, image_to_image=FluxImg2ImgPipeline,
        noised=noise_flux, x_t=lambda asked, h, w: unpack_flux(asked["hidden_states"], h, w),
        sigma=lambda asked: float(asked["timestep"]), at=lambda sigma: {"timestep": sigma},
        prediction=lambda output, h, w: unpack_flux(output[0], h, w), call={"max_sequence_length": 96}),
}
"""Family -> its pipeline. A new family of flow matching is one more entry."""
