"""Bases that train on the latents of an autoencoder: how a picture becomes latents, and how one is sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.models.base import CleanBatch, Randn, SamplingConditions, no_op
from dbrun.models.configs import read_config
from dbrun.models.pipelines import PipelineModel, cpu_generators

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class LatentModel(PipelineModel):
    """Base in memory whose autoencoder `vae` gives a normal distribution of latents (diffusers' AutoencoderKL)."""

    takes_mean: ClassVar[bool] = False
    """Whether x0 is the mean of that distribution, as the base was trained, instead of a draw from it."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode pixels [B, 3, H, W] to mean and log-variance of q(z | pixels), float32 [B, 2C, h, w]."""
        vae = self.component("vae")
        moments: Tensor = vae.encode(pixels.to(self.device, vae.dtype)).latent_dist.parameters
        return moments.float()

    def sample_x0(self, stored: Tensor, randn: Randn, class_labels: str) -> CleanBatch:
        """Draw z = mean + std · noise and normalise it to x0, [B, C, h, w], from stored [B, 2C, h, w]."""
        mean, log_variance = stored.chunk(2, dim=1)
        if self.takes_mean:
            return CleanBatch(self.normalise(mean), {})
        # the clamp of diffusers' DiagonalGaussianDistribution, so that x0 is the same as in its training scripts
        std = (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
        z = mean + std * randn("latents", mean.shape[1:])
        return CleanBatch(self.normalise(z), {})

    def normalise(self, z: Tensor) -> Tensor:
        """Latents as the denoiser takes them, (z - shift_factor) · scaling_factor: z [B, C, h, w] to [B, C, h, w]."""
        return (z - self._shift_factor) * self._scaling_factor

    def denormalise(self, x0: Tensor) -> Tensor:
        """The inverse of `normalise`: x0 [B, C, h, w] to z [B, C, h, w]."""
        return x0 / self._scaling_factor + self._shift_factor

    # read from the config, and once: training draws latents at every step, without the autoencoder in memory
    @cached_property
    def _shift_factor(self) -> float:
        return float(read_config(self.folder / "vae" / "config.json").get("shift_factor") or 0.0)

    @cached_property
    def _scaling_factor(self) -> float:
        # 0.18215 is diffusers' default
        return float(read_config(self.folder / "vae" / "config.json").get("scaling_factor", 0.18215))

    def generate_block(self, conditions: Sequence[SamplingConditions], seeds: Sequence[int], *, steps: int,
                       guidance: float, resolution: int, start_image: Image | None = None,
                       on_step: Callable[[], object] = no_op) -> list[Image]:
        """Sample a block of pictures of resolution × resolution pixels with `sampling_scheduler`."""
        import torch

        def after_step(pipeline: Any, step: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            on_step()
            return tensors

        with torch.no_grad():
            pipeline = self.sampling_pipeline("vae", self.family.components["denoiser"])
            return self._draw(pipeline, conditions, num_inference_steps=steps, guidance_scale=guidance,
                              width=resolution, height=resolution, generator=cpu_generators(seeds),
                              callback_on_step_end=after_step)

    def _draw(self, pipeline: Any, conditions: Sequence[SamplingConditions], **settings: Any) -> list[Image]:
        """The pictures that a pipeline samples. settings: further arguments of its call."""
        images: list[Image] = pipeline(**self.prompt_arguments(conditions), **settings).images
        return images

    def prompt_arguments(self, conditions: Sequence[SamplingConditions]) -> dict[str, Any]:
        """The pipeline's arguments: `hidden` [B, L, D] of prompts and negative prompts."""
        return {"prompt_embeds": stack_prompts(conditions, "hidden"),
                "negative_prompt_embeds": stack_negatives(conditions, "hidden")}

    def _decode(self, pipeline: Any, latents: Tensor) -> list[Image]:
        """Pictures of latents [B, C, h, w] as the denoiser gives them, decoded one by one.

        Decoding takes the most memory of all, and is no faster in a block.
        """
        vae = self.component("vae")
        pictures: list[Image] = []
        for row in latents:
            pixels = vae.decode(self.denormalise(row[None].to(vae.dtype))).sample
            pictures += pipeline.image_processor.postprocess(pixels)
        return pictures


def stack_prompts(conditions: Sequence[SamplingConditions], name: str) -> Tensor:
    """Tensors of this name of the prompts' conditions, stacked: [L, D] each to [B, L, D]."""
    import torch

    return torch.stack([condition.prompt[name] for condition in conditions])


def stack_negatives(conditions: Sequence[SamplingConditions], name: str) -> Tensor:
    """Tensors of this name of the negative prompts' conditions, stacked: [L, D] each to [B, L, D]."""
    import torch

    return torch.stack([condition.negative[name] for condition in conditions])


def tiny_vae(**settings: Any) -> Any:
    """AutoencoderKL of a tiny base: 4 channels for each 4 × 4 pixels. settings: of its config, such as scaling_factor.

    Its weights are drawn from torch's global generator.
    """
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=32, block_out_channels=(8, 8, 16), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, **settings)
