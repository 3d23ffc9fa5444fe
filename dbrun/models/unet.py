"""Shared base classes of the families whose denoiser is diffusers' UNet2DConditionModel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.errors import RecipeError
from dbrun.models.base import Condition
from dbrun.models.configs import downsampling_factor, read_config
from dbrun.models.pipelines import PipelineFamily, PipelineModel
from dbrun.models.scheduling import VARIANCE_PRESERVING

if TYPE_CHECKING:
    from torch import Tensor

    from dbrun.diffusion.process import Process

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TIME_EMBEDDING = ("time_emb_proj", "time_embedding.linear_1", "time_embedding.linear_2")
BLOCK_SIZE, BLOCK_RESOLUTION = 4, 512
"""Most pictures in a block that is sampled at once, and the largest side in pixels with so many."""
RESNETS = ("resnets.*.conv1", "resnets.*.conv2", "conv_shortcut")


class UNetFamily(PipelineFamily):
    """Family with a UNet that attends to one sequence of text states."""

    scheduler_classes: ClassVar[tuple[str, ...]] = VARIANCE_PRESERVING
    diffusers_prefixes: ClassVar[Mapping[str, tuple[str, str]]] = {"denoiser": ("", "unet.")}

    left_out: ClassVar[tuple[str, ...]] = ("safety_checker", "feature_extractor")
    pipeline_settings: ClassVar[Mapping[str, object]] = {"requires_safety_checker": False}

    def check_configs(self, folder: Path) -> None:
        """Raise RecipeError also for a UNet that was distilled to take the guidance scale as an input."""
        super().check_configs(folder)
        file = folder / "unet" / "config.json"
        if read_config(file).get("time_cond_proj_dim") is not None:
            # samplers give it the scale, training would not (Meng et al. 2022, arXiv:2210.03142)
            raise RecipeError(f"{file} of the base: found `time_cond_proj_dim`, the mark of a UNet that was distilled "
                              "to take the guidance scale", fix="choose the base that it was distilled from")

    def native_resolution(self, folder: Path) -> int:
        """The UNet's `sample_size` in pixels: times the VAE's factor where the UNet works on latents."""
        # a config without `sample_size` is read as 64, the side of SD 1.x and of IF stage I
        side = read_config(folder / "unet" / "config.json").get("sample_size") or 64
        # diffusers also takes [height, width]
        if isinstance(side, list):
            side = max(side)
        if "vae" not in self.subfolders:
            return int(side)
        return int(side) * downsampling_factor(folder / "vae")


    def block_size(self, resolution: int) -> int:
        """Number of pictures sampled at once: 4 up to 512 pixels, fewer of larger ones.

        A UNet of few rows leaves most of a device idle: measured on one CPU core, blocks of 4 take 0.7 of the time of
        single pictures in 32 bits and 0.5 in bfloat16, blocks of 8 hardly less.
        """
        return max(1, min(BLOCK_SIZE, BLOCK_SIZE * BLOCK_RESOLUTION**2 // resolution**2))


class UNetModel(PipelineModel):
    """Base in memory whose denoiser is a UNet2DConditionModel."""

    def diffusion_process(self) -> Process:
        """Process with the betas and the prediction type of the base's scheduler."""
        from dbrun.diffusion.ddpm import DiffusionProcess

        return DiffusionProcess.from_config(self.scheduler.config)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Prediction of the UNet for x_t [B, C, h, w] and t [B], of x_t's shape. condition: at least `hidden`."""
        from dbrun.diffusion.device_copy import to_device

        device, dtype = self.device, self.dtype
        sample, labels = self.denoiser_input(x_t, t, condition)
        numbers = {"t": t}
        if labels is not None:
            numbers["labels"] = labels
        numbers = to_device(numbers, device)
        hidden = condition["hidden"].to(device, dtype)
        output: Tensor = self.denoiser(sample.to(device, dtype), numbers["t"], encoder_hidden_states=hidden,
                                       class_labels=numbers.get("labels"),
                                       added_cond_kwargs=self.added_conditions(x_t, condition)).sample
        return drop_variance_channels(output, x_t)

    def added_conditions(self, x_t: Tensor, condition: Condition) -> Mapping[str, Tensor] | None:
        """Further inputs of the UNet for x_t [B, C, h, w], on the device; None for a UNet without any."""
        return None

    def denoiser_input(self, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """UNet's input [B, C', h, w] for x_t [B, C, h, w], and its class labels [B]; None for a UNet without labels."""
        return x_t, None


def drop_variance_channels(output: Tensor, x_t: Tensor) -> Tensor:
    """Prediction [B, C, h, w] in a denoiser's output [B, C or 2C, h, w]; x_t: [B, C, h, w]."""
    # of 2C channels the second half interpolates the variance (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 15);
    # no loss here trains it
    if output.shape[1] == 2 * x_t.shape[1]:
        return output.chunk(2, dim=1)[0]
    return output
