"""What Qwen-Image and Krea 2 share: Qwen-Image's autoencoder, and its template around a prompt."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.models.chat_prompts import ChatFamily
from dbrun.models.configs import read_config
from dbrun.models.flow_matching import FlowModel
from dbrun.models.tiny_text import chat_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

INSTRUCTION = ("Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships "
               "of the objects and background:")
TEMPLATE_START = f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n<|im_start|>user\n"
TEMPLATE_END = "<|im_end|>\n<|im_start|>assistant\n"
START_TOKENS, END_TOKENS = 34, 5
"""Tokens of the two parts of the template; the states of the first are dropped once they have been read."""
MAX_TOKENS = 512
"""Tokens of a prompt with the end of its template: the most that diffusers' pipelines read unless they are told."""


class QwenLatentModel(FlowModel):
    """Base in memory with Qwen-Image's autoencoder, made for videos: a picture is a video of one frame."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode pixels [B, 3, H, W] to mean and log-variance of q(z | pixels), float32 [B, 2C, h, w]."""
        frames = pixels[:, :, None]
        return super().encode_images(frames).squeeze(2)

    def normalise(self, z: Tensor) -> Tensor:
        """Latents as the denoiser takes them: each channel with mean 0 and spread 1; z and result [B, C, h, w]."""
        mean, std = self._statistics
        return (z - mean.to(z.device)) / std.to(z.device)

    def denormalise(self, x0: Tensor) -> Tensor:
        """The inverse of `normalise` as the autoencoder decodes it: x0 [B, C, h, w] to z [B, C, 1, h, w]."""
        mean, std = self._statistics
        return (x0 * std.to(x0.device) + mean.to(x0.device))[:, :, None]

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the latents, float32 [C, 1, 1] on the CPU."""
        import torch

        # read from the config, and once: training draws latents at every step, without the autoencoder in memory
        config = read_config(self.folder / "vae" / "config.json")
        mean, std = (torch.tensor(config[name], device="cpu") for name in ("latents_mean", "latents_std"))
        return mean[:, None, None], std[:, None, None]


class QwenLatentFamily(ChatFamily):
    """Family with Qwen-Image's autoencoder."""

    no_kohya_reason: ClassVar[str | None] = (
        "which is not written for it; ComfyUI reads the file of `diffusers` as well")

    def resolution_multiple(self, folder: Path) -> int:
        """The VAE's downsampling factor times the patch's side: 16 for the published models."""
        levels = read_config(folder / "vae" / "config.json").get("temperal_downsample", (False, True, True))
        return int(2**len(levels)) * self.patch


def template_tokenizer() -> Any:
    """Tokenizer of a tiny base: the template has as many tokens as with the published one, the rest is bytes."""
    words = INSTRUCTION.replace(",", "").replace(":", "").split()
    return chat_tokenizer(["user", "system", "assistant", words[0], *(f" {word}" for word in words[1:])])


def tiny_qwen_vae() -> Any:
    """Autoencoder of a tiny base: 4 channels for each 4 × 4 pixels; weights from torch's global generator."""
    from diffusers import AutoencoderKLQwenImage

    # as in the published one, no channel has mean 0 and spread 1
    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, -0.1], latents_std=[1.5, 0.8, 1.2, 0.6])
